"""A bundle of tiny inputs, with a synthesizer of sines: what is packed, unpacked, rendered, and trained on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from argparse import ArgumentTypeError
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.training.data import Cache, open_cache

ROOT = Path(__file__).parents[1]
TINY = ROOT / "audiovae" / "configs" / "tiny.toml"
WORKS = 12
HOURS = 0.03
SYNTHESIZER = '''
"""Sines for notes, by the interface of tinysoundfont."""
import numpy as np
class Synth:
    def __init__(self, gain, samplerate): self.rate, self.held, self.at = samplerate, {}, 0
    def sfload(self, path): return 0
    def sounds_off(self): self.held.clear()
    def program_select(self, *words): pass
    def noteon(self, channel, pitch, velocity): self.held[channel, pitch] = velocity / 1270
    def noteoff(self, channel, pitch): self.held.pop((channel, pitch), None)
    def generate(self, samples):
        time = np.arange(samples) / self.rate
        pitches = [(440 * 2 ** ((pitch - 69) / 12), level) for (_, pitch), level in self.held.items()]
        tones = [level * np.sin(6.2832 * pitch * time) for pitch, level in pitches]
        return np.repeat(sum(tones, np.zeros(samples)).astype(np.float32), 2).tobytes()
'''


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory):
    """The recipes can be imported, and find the synthesizer."""
    folder = tmp_path_factory.mktemp("synthesizer")
    (folder / "tinysoundfont.py").write_text(SYNTHESIZER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.syspath_prepend(ROOT / "data")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


def write_music(folder: Path) -> None:
    """Four tracks, two excerpts each: two of the tracks train, one valid, one test."""
    rows = []
    for track, split in enumerate(("train", "train", "valid", "test")):
        for start in (0.0, 20.0):
            file = f"{split}/{track}_{start:g}.flac"
            audio = 0.2 * np.sin(np.arange(3 * 44_100) * (0.05 + 0.02 * track + 0.001 * start))
            (folder / split).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / file, audio, 44_100)
            facts = {"package": "game", "track": f"{track}.ogg", "licence": "CC0", "start_seconds": start}
            rows.append({"file": file, "split": split, "seconds": 3.0} | facts)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_midi(folder: Path) -> None:
    """Works of 24 notes, half a second each."""
    folder.mkdir()
    for work in range(WORKS):
        notes = [
            bytes([0, 0x90, 50 + (work + note) % 24, 80, 96, 0x80, 50 + (work + note) % 24, 0]) for note in range(24)
        ]
        track = b"".join(notes) + bytes([0, 0xFF, 0x2F, 0])
        header = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1, 0, 96])
        (folder / f"composer_op{work:02d}.mid").write_bytes(header + b"MTrk" + len(track).to_bytes(4, "big") + track)


@pytest.fixture(scope="module")
def inputs(recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of bundle.py but its first."""
    folder = tmp_path_factory.mktemp("inputs")
    write_music(folder / "music")
    write_midi(folder / "midi")
    (folder / "Tiny.sf2").write_bytes(b"RIFF\0\0\0\0sfbk")
    (folder / "wheels").mkdir()
    (folder / "wheels" / "numpy-1.0-py3-none-any.whl").write_bytes(b"never opened: there is a numpy")
    write_wheel(folder / "wheels")
    words = {"music": "music", "midi": "midi", "fonts": "Tiny.sf2", "wheels": "wheels"}
    return [word for name, path in words.items() for word in (f"--{name}", str(folder / path))]


@pytest.fixture(scope="module")
def bundle(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import bundle

    path = tmp_path_factory.mktemp("bundle") / "corpus.pyz"
    bundle.main([str(path), *inputs])
    return path


def unpack_and_render(bundle: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle), str(out), "--hours", str(HOURS), "--jobs", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def write_wheel(folder: Path) -> None:
    """The synthesizer as a package that no machine has."""
    name = "tinysoundfont_of_sines"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinysoundfont.py", SYNTHESIZER)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture(scope="module")
def corpus(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus that a machine without anything but Python and the bundle makes."""
    out = tmp_path_factory.mktemp("corpus")
    result = unpack_and_render(bundle, out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith(f"wrote {out}: ")
    return out


def rows_of(corpus: Path) -> list[dict]:
    return [json.loads(line) for line in (corpus / "manifest.jsonl").read_text().splitlines()]


def cache_of(corpus: Path) -> Cache:
    return open_cache(corpus, corpus / "unused", Config.from_toml(TINY, ["data.shares={music=0.5}"]))


def test_bundle_holds_train_and_valid_music_with_licences_and_no_weights(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        rows = [json.loads(line) for line in archive.read("music/manifest.jsonl").splitlines()]
    assert sorted(row["file"] for row in rows) == sorted(name[6:] for name in names if name.endswith(".opus"))
    assert Counter(row["split"] for row in rows) == {"train": 4}  # valid is one in twenty
    assert {row["licence"] for row in rows} == {"CC0"}
    assert [row["track"] for row in rows[:2]] != [rows[0]["track"]] * 2  # of every track in turn
    assert "code/audiovae/training/loop.py" in names and "code/data/render.py" in names
    assert not [name for name in names if name.endswith(".safetensors")]


def test_validation_music_travels_and_test_music_does_not(recipes: Path) -> None:
    from bundle import choose

    rows = [
        {"package": "p", "track": f"{split} {track}", "start_seconds": start, "split": split}
        for split, tracks in (("train", 30), ("valid", 4), ("test", 4))
        for track in range(tracks)
        for start in range(3)
    ]
    chosen = choose(rows)
    splits = [row["split"] for row in chosen]
    assert Counter(splits) == {"train": 90, "valid": 4}
    assert splits.index("valid") == 19
    assert (
        len({row["track"] for row in chosen if row["split"] == "train"} & {row["track"] for row in chosen[:31]}) == 30
    )
    assert choose(rows[::-1]) == chosen


def test_bundle_never_exceeds_its_limit_and_holds_what_fits(inputs: list[str], bundle: Path, tmp_path: Path) -> None:
    import bundle as recipe

    for limit in (bundle.stat().st_size, bundle.stat().st_size - 1):
        recipe.main([str(tmp_path / f"{limit}.pyz"), *inputs, "--limit-mib", str(limit / 2**20)])
        assert (tmp_path / f"{limit}.pyz").stat().st_size <= limit
        with zipfile.ZipFile(tmp_path / f"{limit}.pyz") as archive:
            assert sum(name.endswith(".opus") for name in archive.namelist()) == 3


def test_a_second_bundle_brings_the_music_that_the_first_has_no_room_for(
    inputs: list[str], bundle: Path, tmp_path: Path
) -> None:
    import bundle as recipe
    import unpack

    first, second = tmp_path / "first.pyz", tmp_path / "second.pyz"
    recipe.main([str(first), *inputs, "--limit-mib", str((bundle.stat().st_size - 1) / 2**20)])
    after = ["--music", inputs[1], "--after", str(first)]
    recipe.main([str(second), *after])
    with zipfile.ZipFile(second) as archive:
        names = archive.namelist()
    assert len(names) == 2 and names[0].endswith(".opus") and names[1] == "music/manifest.jsonl"
    unpack.unpack([first, second], tmp_path / "both")
    unpack.unpack([bundle], tmp_path / "whole")
    for path in (tmp_path / "whole" / "music").rglob("*.*"):
        there = tmp_path / "both" / path.relative_to(tmp_path / "whole")
        assert there.exists() if path.suffix == ".opus" else there.read_bytes() == path.read_bytes()
    with pytest.raises(SystemExit, match=f"has nothing that isn't in {bundle}"):
        recipe.main([str(tmp_path / "third.pyz"), "--music", inputs[1], "--after", str(bundle)])


def test_a_second_bundle_is_rendered_with_the_first(inputs: list[str], bundle: Path, tmp_path: Path) -> None:
    import bundle as recipe
    import unpack

    first, second = tmp_path / "first.pyz", tmp_path / "second.pyz"
    recipe.main([str(first), *inputs, "--limit-mib", str((bundle.stat().st_size - 1) / 2**20)])
    recipe.main([str(second), "--music", inputs[1], "--after", str(first)])
    missing = unpack_and_render(first, tmp_path / "corpus", "--more", "nowhere.pyz")
    assert (missing.returncode, missing.stderr) == (1, "error: nowhere.pyz: no such file\n")
    result = unpack_and_render(first, tmp_path / "corpus", "--more", str(second))
    assert result.returncode == 0, result.stderr
    assert sum(row["file"].startswith("music/") for row in rows_of(tmp_path / "corpus")) == 4
    with pytest.raises(
        SystemExit, match=r"error: train/.* is in none of these bundles: a later one needs all before it"
    ):
        unpack.unpack([second], tmp_path / "alone")
    with zipfile.ZipFile(tmp_path / "no.zip", "w") as archive:
        archive.writestr("a.txt", "no bundle")
    none = unpack_and_render(first, tmp_path / "none", "--more", str(tmp_path / "no.zip"))
    assert (none.returncode, none.stderr) == (1, f"error: {tmp_path}/no.zip: not a bundle\n")


def test_bundles_that_know_nothing_of_each_other_are_put_together(bundle: Path, tmp_path: Path) -> None:
    import unpack

    with zipfile.ZipFile(bundle) as archive:
        rows = archive.read("music/manifest.jsonl").decode().splitlines()
        files = [f"music/{json.loads(row)['file']}" for row in rows]
        for name, part in (("a", slice(0, 2)), ("b", slice(1, 3)), ("c", slice(3, None))):
            with zipfile.ZipFile(tmp_path / name, "w") as made:
                made.writestr("music/manifest.jsonl", "".join(f"{row}\n" for row in rows[part]))
                for file in files[part]:
                    made.writestr(file, archive.read(file))
    unpack.unpack([tmp_path / name for name in "cab"], tmp_path / "all")
    there = (tmp_path / "all" / "music" / "manifest.jsonl").read_text().splitlines()
    assert sorted(there) == sorted(rows)


def test_what_could_not_be_rendered_elsewhere_is_no_bundle(inputs: list[str], bundle: Path, tmp_path: Path) -> None:
    import bundle as recipe
    import midi

    (tmp_path / "x.tgz").write_text("no archive")
    (tmp_path / "cut.mid").write_bytes(b"MThd" + bytes(10) + b"MTrk" + (9).to_bytes(4, "big") + b"\0\x90")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.tgz").write_bytes(recipe.midi_archive(Path(inputs[3]))[:-40])
    for midi_files, reason in (
        ("x.tgz", "neither a folder nor a tar archive"),
        ("cut.tgz", "damaged or cut off"),
        ("empty", "no .mid files in it"),
    ):
        with pytest.raises(InputError, match=f"{midi_files}: {reason}$"):
            recipe.midi_archive(tmp_path / midi_files)
    with pytest.raises(InputError, match=r"cut\.mid: damaged or cut off$"):
        midi.read(tmp_path / "cut.mid")
    for words in (["--after", str(bundle)], ["--kbps", "300", *inputs[2:]]):
        with pytest.raises(SystemExit) as end:
            recipe.main([str(bundle), *inputs[:2], *words])
        assert end.value.code == 2
    with pytest.raises(SystemExit, match=r"not a corpus that music\.py made$"):
        recipe.main([str(tmp_path / "new.pyz"), "--music", str(tmp_path), "--after", str(bundle)])


def test_bundle_that_has_no_room_for_music_is_refused_in_one_line(inputs: list[str], tmp_path: Path) -> None:
    import bundle as recipe

    with pytest.raises(SystemExit) as error:
        recipe.main([str(tmp_path / "small.pyz"), *inputs, "--limit-mib", "0.01"])
    assert str(error.value).startswith(f"error: {tmp_path / 'small.pyz'}: code, wheels, MIDI and SoundFonts take 0.")
    assert str(error.value).endswith("no music fits beside them in 0.01 MiB")
    assert list(tmp_path.iterdir()) == []


def test_corpus_has_its_hours_licences_and_splits(corpus: Path) -> None:
    rows = rows_of(corpus)
    seconds = Counter[str]()
    for row in rows:
        seconds[row["split"]] += row["samples"] / 44_100
    assert HOURS * 3600 <= seconds["train"] <= HOURS * 3600 + 60
    assert {Path(row["file"]).parts[0] for row in rows} == {"music", "notes", "scores"}
    assert all(row["licence"] for row in rows)
    assert {row["licence"] for row in rows if row["file"].startswith("music")} == {"CC0"}


def test_no_work_track_or_pitch_is_in_two_splits_and_none_of_test_is_there(corpus: Path, recipes: Path) -> None:
    import notes
    import scores

    rows = rows_of(corpus)
    assert {row["split"] for row in rows} <= {"train", "valid"}
    splits = scores.splits([Path(f"composer_op{work:02d}.mid") for work in range(WORKS)])
    assert sorted(splits.values()).count("test") == 3  # two of the twelve, and the example's
    for row in rows:
        assert row["split"] == Path(row["file"]).parts[1]
        if "work" in row:
            assert splits[row["work"]] == row["split"]
        for note in row.get("notes", ()):
            assert notes.is_valid_pitch(note["pitch"]) == (row["split"] == "valid")


def test_training_finds_every_sample_where_the_index_says(corpus: Path) -> None:
    cache = cache_of(corpus)
    assert cache.skipped == ()
    audio = np.memmap(cache.audio, "<i2", mode="r")
    for source, row in zip(cache.sources, rows_of(corpus), strict=True):
        assert (source.path, source.offset, source.samples) == (row["file"], row["offset"], row["samples"])
        samples = audio[source.offset : source.offset + source.samples].astype(np.float64) / 32767
        assert 10 * np.log10(np.mean(samples**2)) == pytest.approx(source.level_db, abs=3)  # the level is gated
    end = cache.sources[-1]
    assert len(audio) == end.offset + end.samples


def test_real_music_survives_the_journey(corpus: Path, inputs: list[str]) -> None:
    cache = cache_of(corpus)
    source = next(one for one in cache.sources if one.path.startswith("music/"))
    start = source.offset
    travelled = np.memmap(cache.audio, "<i2", mode="r")[start : start + source.samples] / 32767
    original, _ = soundfile.read(Path(inputs[1], source.path[6:]).with_suffix(".flac"))
    assert len(travelled) == len(original)
    noise = travelled - original
    assert np.mean(noise[4410:-4410] ** 2) < 0.01 * np.mean(original**2)


def test_a_killed_rendering_is_finished_to_the_same_bytes_by_any_number_of_processes(
    corpus: Path, tmp_path: Path
) -> None:
    import render

    out = tmp_path / "killed"
    out.mkdir()
    rows = (corpus / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(rows[:3]) + rows[3][:20])
    half_a_recording = 2 * (json.loads(rows[3])["offset"] + 1000)
    (out / "decoded.int16").write_bytes((corpus / "decoded.int16").read_bytes()[:half_a_recording])
    shutil.copy(corpus / "recipe.json", out)
    with pytest.raises(InputError, match="its rendering was not finished: run the same command again"):
        cache_of(out)
    render.render(corpus / "bundle", out, hours=HOURS, seed=0, jobs=1)
    for name in ("decoded.int16", "decoded.json", "manifest.jsonl"):
        assert (out / name).read_bytes() == (corpus / name).read_bytes()
    with pytest.raises(InputError, match=f"^{out}: was begun with seed 0, not 1; choose another folder$"):
        render.render(corpus / "bundle", out, hours=HOURS, seed=1, jobs=1)


def test_what_is_unpacked_is_not_unpacked_again_but_another_bundle_is(
    bundle: Path, recipes: Path, tmp_path: Path
) -> None:
    import unpack

    unpack.unpack([bundle], tmp_path / "bundle")
    (tmp_path / "bundle" / "midi.tgz").write_bytes(b"mine")
    unpack.unpack([bundle], tmp_path / "bundle")
    assert (tmp_path / "bundle" / "midi.tgz").read_bytes() == b"mine"
    (tmp_path / "bundle" / "bundle.sha256").write_text("another's")
    unpack.unpack([bundle], tmp_path / "bundle")
    with zipfile.ZipFile(bundle) as archive:
        assert (tmp_path / "bundle" / "midi.tgz").read_bytes() == archive.read("midi.tgz")


@pytest.mark.slow
def test_a_model_trains_on_what_was_unpacked(corpus: Path, tmp_path: Path) -> None:
    """With the code that travelled, which has no weights."""
    path = (corpus / "environment.sh").read_text().split("'")[1]
    words = ["tiny", "--data", str(corpus), "--out", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--set", "training.steps=2", "--set", "data.shares={music=0.5}"]
    command = [sys.executable, "-m", "audiovae", "train", *words]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"wrote {tmp_path / 'run' / 'model.safetensors'}: step 2" in result.stdout.splitlines()[-1]


def test_what_is_no_soundfont_is_refused_where_there_is_a_network(recipes: Path, tmp_path: Path) -> None:
    from soundfont import check_fonts

    good, other, bad = tmp_path / "a.sf2", tmp_path / "other" / "a.sf2", tmp_path / "bad.sf2"
    other.parent.mkdir()
    for font in (good, other):
        font.write_bytes(b"RIFF\0\0\0\0sfbkLIST")
    bad.write_text("RIFF, but no SoundFont")
    check_fonts([good])
    for fonts, reason in (
        ([good, bad], "bad.sf2: not a SoundFont"),
        ([tmp_path / "none.sf2"], "none.sf2: no such file"),
        ([good, other], "a.sf2: given twice, or another SoundFont has this name too"),
    ):
        with pytest.raises(InputError, match=f"{reason}$"):
            check_fonts(fonts)


def test_recipes_take_no_absurd_numbers(recipes: Path) -> None:
    import corpus

    for text in ("0", "-1", "nan", "inf", "much"):
        with pytest.raises(ArgumentTypeError, match=rf"^{text} is not a number above 0$"):
            corpus.above_zero(text)
        with pytest.raises(ArgumentTypeError, match=rf"^{text} is not a whole number above 0$"):
            corpus.one_or_more(text)
    assert (corpus.above_zero("2.5"), corpus.one_or_more("3")) == (2.5, 3)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_ctrl_c_is_the_recipes_to_answer_and_not_its_workers(recipes: Path) -> None:
    import corpus

    with ProcessPoolExecutor(1, initializer=corpus.begin_worker) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_a_corpus_is_made_by_one_recipe_at_a_time(recipes: Path, tmp_path: Path) -> None:
    import corpus

    with (
        locked(tmp_path),
        pytest.raises(InputError, match=r"another process is writing to it$"),
        ThreadPoolExecutor() as pool,
    ):
        corpus.build(tmp_path, [SimpleNamespace(file=Path("a.flac"))], lambda job: None, pool, {})


def test_recipes_tell_what_stops_them_in_one_line(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import corpus

    def told(error: BaseException) -> tuple[object, str]:
        with pytest.raises(SystemExit) as end, corpus.errors_told():
            raise error
        return end.value.code, capsys.readouterr().err

    assert told(InputError("a.mid: no notes")) == ("error: a.mid: no notes", "")
    assert told(OSError(28, "No space left on device", "a.flac")) == ("error: a.flac: No space left on device", "")
    assert told(subprocess.CalledProcessError(100, ["apt-get", "x"])) == ("error: apt-get x: failed", "")
    assert told(KeyboardInterrupt()) == (130, "interrupted\n")


class TestParts:
    def test_come_together_again(self, recipes: Path, tmp_path: Path) -> None:
        import parts

        content = np.random.default_rng(0).bytes(2_500_000)
        (tmp_path / "state").write_bytes(content)
        parts.main(["split", str(tmp_path / "state"), str(tmp_path / "out"), "--mib", "1"])
        sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir() if path.suffix != ".json"}
        assert sizes == {"state.000": 2**20, "state.001": 2**20, "state.002": 2_500_000 - 2 * 2**20}
        parts.main(["join", str(tmp_path / "out" / "state.json"), str(tmp_path / "again")])
        assert (tmp_path / "again").read_bytes() == content

    def test_that_are_missing_or_damaged_are_named(self, recipes: Path, tmp_path: Path) -> None:
        import parts

        (tmp_path / "state").write_bytes(bytes(2_500_000))
        parts.split(tmp_path / "state", tmp_path / "out", 2**20)
        listing = tmp_path / "out" / "state.json"
        (tmp_path / "out" / "state.001").write_bytes(b"damaged")
        with pytest.raises(InputError, match=r"state\.json: 1 of 3 parts damaged: state\.001$"):
            parts.join(listing, tmp_path / "again")
        (tmp_path / "out" / "state.002").unlink()
        with pytest.raises(InputError, match=r"state\.json: 1 of 3 parts missing: state\.002$"):
            parts.join(listing, tmp_path / "again")
        assert not (tmp_path / "again").exists()

    def test_that_hold_nothing_are_refused(self, recipes: Path, tmp_path: Path) -> None:
        import parts

        (tmp_path / "state").write_bytes(bytes(1000))
        with pytest.raises(InputError, match="state: parts of 0 bytes hold nothing"):
            parts.split(tmp_path / "state", tmp_path / "out", 0)
        parts.split(tmp_path / "state", tmp_path / "out", 600)
        listing = tmp_path / "out" / "state.json"
        listing.write_text(listing.read_text().replace('"bytes": 1000', '"bytes": 1001'))
        with pytest.raises(InputError, match="the parts are whole, but not those of state"):
            parts.join(listing, tmp_path / "again")
