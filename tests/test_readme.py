"""The README is run as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with the example clips at the paths that the README uses."""
    shutil.copytree(ROOT / "data" / "examples", tmp_path / "data" / "examples")
    for name, clip in {"A.wav": "guitar", "B.wav": "music_box"}.items():
        shutil.copy(ROOT / "data" / "examples" / f"{clip}.flac", tmp_path / name)
    (tmp_path / "MUSIC_FOLDER").mkdir()
    shutil.copy(ROOT / "data" / "examples" / "guitar.flac", tmp_path / "MUSIC_FOLDER")
    return tmp_path


def blocks(language: str, heading: str) -> str:
    """The first code block under a heading."""
    section = README.split(f"\n## {heading}\n")[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def test_python_runs_as_it_stands(folder: Path):
    subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks("python", "Five lines of Python")], cwd=folder, check=True
    )
    assert (folder / "between.wav").stat().st_size > 100_000


def test_pandas_runs_as_it_stands_though_a_recording_failed(folder: Path):
    from typer.testing import CliRunner

    from audiovae.cli import app

    (folder / "MUSIC_FOLDER" / "bad.wav").write_text("no sound")
    words = ["encode", str(folder / "MUSIC_FOLDER"), "--out", str(folder / "latents")]
    assert CliRunner().invoke(app, words).exit_code == 1
    script = blocks("python", "A dataset of latents") + "assert mean.shape == (row.channels, 512, row.latent_frames)\n"
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=folder, check=True)


def test_streaming_runs_as_it_stands(folder: Path):
    encode = 'import audiovae\ncodec = audiovae.load()\na, played = codec.encode("A.wav"), []\nplay = played.append\n'
    check = "assert sum(block.shape[1] for block in played) == a.samples\n"
    script = encode + blocks("python", "While it plays") + check
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=folder, check=True)


def test_three_commands_run_as_they_stand(folder: Path):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = blocks("sh", "Three commands")
    subprocess.run(["sh", "-ec", script], cwd=folder, check=True, env=environment, stdout=subprocess.DEVNULL)
    assert (folder / "morph" / "curve.wav").exists()
    assert (folder / "new" / "07.wav").exists()
    assert (folder / "latents" / "latents-000000.parquet").exists()


def test_every_path_in_the_text_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"`((?:tests|data|audiovae)/[\w./]+)`", README):
        assert (ROOT / name).exists(), name


def test_tree_names_every_module():
    tree = README.split("## Where things are")[1]
    for path in (ROOT / "audiovae").iterdir():
        if not path.name.startswith("__") and path.name != "py.typed":
            assert path.name in tree, path.name


def test_measured_tables_are_filled():
    for name in ("reconstruction", "models", "speed"):
        block = README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
        assert block.count("|") > 12, name
