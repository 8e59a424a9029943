"""The example clips are what their list says, and may be passed on."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

DATA = Path(__file__).parents[1] / "data"
ROWS = json.loads((DATA / "examples" / "examples.json").read_text(encoding="utf-8"))
FREE = ("public domain", "CC0", "CC-BY-3.0", "CC-BY-4.0", "MIT")


def test_list_and_folder_agree():
    listed = {row["file"] for row in ROWS}
    assert listed == {path.name for path in (DATA / "examples").glob("*.flac")}
    assert 6 <= len(listed) <= 12
    assert sum("Bach" in row["title"] or "Grieg" in row["title"] for row in ROWS) >= 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_clip_is_the_one_described(row: dict):
    path = DATA / "examples" / row["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
    samples, rate = soundfile.read(path, always_2d=True)
    assert rate == 44100
    assert samples.shape[1] == row["channels"]
    assert samples.shape[0] / rate == pytest.approx(row["seconds"], abs=0.01)
    assert 3 <= row["seconds"] <= 8
    assert 0.01 < np.abs(samples).max() < 0.95
    assert any(licence in row["licence"] for licence in FREE)
    assert row["author"]
    assert row["file"] in (DATA / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("recipe", ["music", "notes", "scores", "examples"])
def test_recipe_explains_itself(recipe: str):
    result = subprocess.run(
        [sys.executable, DATA / f"{recipe}.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--" in result.stdout


def test_split_is_by_number_and_leaves_four_fifths_to_training():
    code = "import corpus; print([corpus.split_of(i) for i in range(10)])"
    result = subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=True)
    splits = result.stdout
    assert splits.count("'train'") == 8
    assert splits.count("'valid'") == splits.count("'test'") == 1


def test_files_that_would_be_called_alike_are_refused(tmp_path: Path):
    code = (
        "import pathlib, types, corpus\n"
        "jobs = [types.SimpleNamespace(file=pathlib.Path('test/a.flac')) for _ in range(2)]\n"
        f"corpus.build(pathlib.Path({str(tmp_path)!r}), jobs, None, None, {{}})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=False)
    assert "test/a.flac: would be made of 2 sources with names alike" in result.stderr
    assert not list(tmp_path.iterdir())


def test_hours_too_few_for_any_file_are_refused(tmp_path: Path):
    code = f"import pathlib, corpus; corpus.build(pathlib.Path({str(tmp_path / 'out')!r}), [], None, None, {{}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=False)
    assert f"{tmp_path / 'out'}: nothing to make in so few hours; give more" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path):
    def build(seconds: float) -> subprocess.CompletedProcess[str]:
        code = (
            "import argparse, concurrent.futures, pathlib, corpus\n"
            f"out = pathlib.Path({str(tmp_path / 'out')!r})\n"
            f"options = argparse.Namespace(out=out, jobs=2, fonts=[pathlib.Path('a/b.sf2')], seconds={seconds})\n"
            "silent = argparse.Namespace(file=pathlib.Path('train/a.flac'))\n"
            "with concurrent.futures.ThreadPoolExecutor() as pool:\n"
            "    corpus.build(out, [silent], lambda job: None, pool, corpus.recipe_of(options))\n"
        )
        return subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=False)

    assert build(20.0).returncode == build(20.0).returncode == 0
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == {"fonts": ["b.sf2"], "seconds": 20.0}
    assert "was begun with seconds 20.0, not 30.0; choose another folder" in build(30.0).stderr


def test_a_piece_under_two_names_is_in_one_split():
    code = (
        "import pathlib, scores\n"
        "pieces = [pathlib.Path(f'bach_bwv{n}.mid') for n in (100, 158.4, 197.7, 253, 274, 279, 398, 414, '62.6')]\n"
        "split = scores.splits(pieces)\n"
        "print(all(split[one] == split[other] for one, other in scores.SAME_MUSIC.items()))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def test_a_recording_that_is_in_train_under_another_name_is_left_out(tmp_path: Path):
    """And the tracks beside it keep their splits, which go by number, and their excerpts."""
    tracks = [*(f"ingame_{number:02}.ogg" for number in range(9)), "journey.ogg", "menu.ogg", "night.ogg"]
    for name in tracks:
        soundfile.write(tmp_path / name, np.zeros(32000 * 30), 32000)
    code = (
        "import pathlib, music\n"
        f"folder, hours = pathlib.Path({str(tmp_path)!r}), 12 * 20 / 3600\n"
        "for package in ('widelands-data', 'freecol'):\n"
        "    source = music.Source(package, 1.0, r'\\.ogg$', '')\n"
        "    plan = music.plan(source, folder, hours, 20.0)\n"
        "    print([(excerpt.track, excerpt.split, excerpt.start) for excerpt in plan])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=DATA, capture_output=True, text=True, check=True)
    without, every = (ast.literal_eval(line) for line in result.stdout.splitlines() if line.startswith("["))
    assert [track for track, _, _ in every] == tracks
    assert without == [one for one in every if one[0] != "menu.ogg"] and ("menu.ogg", "test", 5.0) in every
