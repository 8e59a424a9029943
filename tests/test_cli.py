"""The commands: what they write, what they say, and what they refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from conftest import noise, silence, stereo, tone
from safetensors.torch import save_file
from tiny_codec import save_tiny
from typer.testing import CliRunner, Result

from audiovae import __version__, alignment, codec, generation, interpolation
from audiovae.__main__ import main as start
from audiovae.audio import CODINGS, Audio, AudioWriter
from audiovae.checkpoint import load_checkpoint
from audiovae.cli import app, datasets, encode_progress, options, sounds
from audiovae.cli.results import UNFINISHED, check_folder, result_folder
from audiovae.encoding import resume, writer
from audiovae.errors import InputError
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.folder_lock import locked
from audiovae.latent_dataset import schema
from audiovae.latent_dataset.schema import Row
from audiovae.latents import Latents
from audiovae.tensor_file import read_tensors
from audiovae.training import loop, prior, validation
from audiovae.training import run as training
from audiovae.whole_file import whole_file

RUN = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.wav and b.wav of one length, c.flac shorter, d.wav stereo at another rate, silence.wav."""
    folder = tmp_path_factory.mktemp("clips")
    Audio(tone(samples=12_000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=12_000), 44_100).save(folder / "b.wav")
    Audio(tone(samples=6_000, frequency_hz=880.0), 44_100).save(folder / "c.flac")
    Audio(stereo(samples=6_000), 22_050).save(folder / "d.wav")
    Audio(silence(samples=6_000), 44_100).save(folder / "silence.wav")
    return folder


def call(*words: object) -> Result:
    return RUN.invoke(app, [str(word) for word in words])


def work(*words: object) -> str:
    """Runs a command that must succeed; returns its last line on stdout."""
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()[-1]


def refuse(*words: object, code: int = 1) -> str:
    """Runs a command that must fail with one line on stderr, and nothing on stdout; returns the line."""
    result = call(*words)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("audiovae: ")
    return line.removeprefix("audiovae: ")


def misuse(*words: object) -> str:
    """Runs a command that must fail as wrong usage; returns what it says, without its frame."""
    result = call(*words)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    return " ".join(word for word in result.stderr.split() if word != "│")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def python(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


# --- starting ---------------------------------------------------------------------------------------------------------


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = """
import resource, sys
from audiovae.cli import main
try:
    main()
except SystemExit:
    pass
usage = resource.getrusage(resource.RUSAGE_SELF)
heavy = {"torch", "numpy", "soundfile", "librosa", "pydantic", "PIL"} & set(sys.modules)
print(usage.ru_utime + usage.ru_stime, sorted(heavy), file=sys.stderr)
"""
    ran = python("-c", code, "--help")
    seconds, heavy = ran.stderr.split(maxsplit=1)
    assert float(seconds) < 1.0
    assert heavy.strip() == "[]"
    for command in ("interpolate", "reconstruct", "generate", "encode", "decode", "train", "info"):
        assert f" {command} " in ran.stdout


def test_as_a_module_it_prints_its_version() -> None:
    ran = python("-m", "audiovae", "--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"audiovae {__version__}\n", "")


def test_the_words_of_the_options_are_those_of_the_modules() -> None:
    assert get_args(options.Quality) == tuple(codec.ITERATIONS)
    assert get_args(options.Device) == codec.DEVICES
    assert get_args(options.Fit) == get_args(alignment.Fit)
    assert get_args(options.PathShape) == get_args(interpolation.PathShape)
    assert {f".{suffix}" for suffix in get_args(options.Format)} == set(CODINGS)
    assert get_args(datasets.Redo) == get_args(resume.Redo)
    assert (sounds.SHORTEST_SECONDS, sounds.LONGEST_SECONDS) == generation.DURATION_RANGE_SECONDS
    assert get_args(datasets.Precision) == get_args(schema.Precision)


# --- interpolate ------------------------------------------------------------------------------------------------------


def test_the_ends_of_a_path_are_the_reconstructions_of_its_clips(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--quality", "draft")
    last = work(
        "interpolate", clips / "a.wav", clips / "c.flac", "--out", tmp_path / "x" / "out", "--steps", 4, *common
    )
    assert last == f"wrote {tmp_path}/x/out: 00.wav to 03.wav, path.wav, path.png, path.json"
    assert names(tmp_path) == [
        f"x/out/{name}" for name in ("00.wav", "01.wav", "02.wav", "03.wav", "path.json", "path.png", "path.wav")
    ]
    for clip, end in (("a.wav", "00.wav"), ("c.flac", "03.wav")):
        work("reconstruct", clips / clip, "--out", tmp_path / end, *common)
        assert (tmp_path / end).read_bytes() == (tmp_path / "x" / "out" / end).read_bytes()
    lengths = [Audio.load(tmp_path / "x" / "out" / f"0{index}.wav").samples for index in range(4)]
    assert lengths == [12_000, 10_000, 8_000, 6_000]


def test_path_json_tells_how_the_path_was_made(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    work("interpolate", clips / "a.wav", clips / "d.wav", "--out", tmp_path, "--steps", 3, "--checkpoint", checkpoint)
    facts = json.loads((tmp_path / "path.json").read_text())
    assert facts["version"] == __version__
    assert facts["checkpoint"] == {"fingerprint": codec.load(checkpoint).fingerprint, "file": str(checkpoint)}
    assert [(one["path"], one["sample_rate"], one["samples"], one["channels"]) for one in facts["inputs"]] == [
        (str(clips / "a.wav"), 44_100, 12_000, 1),
        (str(clips / "d.wav"), 22_050, 6_000, 2),
    ]
    assert facts["settings"] == {
        "path": "normalised",
        "fit": "stretch",
        "align": "both",
        "quality": "standard",
        "format": "wav",
    }
    *steps, whole = facts["files"]
    assert [(step["name"], step["weight"]) for step in steps] == [("00.wav", 0.0), ("01.wav", 0.5), ("02.wav", 1.0)]
    for file in facts["files"]:
        audio = Audio.load(tmp_path / file["name"])
        assert (audio.samples, audio.sample_rate, audio.channels) == (
            file["samples"],
            file["sample_rate"],
            file["channels"],
        )
    assert whole["name"] == "path.wav"
    row, place = Audio.load(tmp_path / "path.wav").waveform, 0
    for step in steps:
        alone = Audio.load(tmp_path / step["name"]).waveform * 10 ** ((whole["gain_db"] - step["gain_db"]) / 20)
        inner = slice(300, alone.shape[1] - 300)  # but for the fades
        assert torch.allclose(row[:, place : place + alone.shape[1]][:, inner], alone[:, inner], atol=1e-5)
        assert (row[:, place] == 0).all()
        place += alone.shape[1]
    assert place == row.shape[1]
    assert steps[0]["distance_to_previous_db"] is None
    assert steps[1]["distance_to_previous_db"] > 1


def test_steps_of_equal_sounds_have_no_distance(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    clip = clips / "b.wav"
    work("interpolate", clip, clip, "--out", tmp_path, "--steps", 3, "--checkpoint", checkpoint, "--quality", "draft")
    distances = [
        file.get("distance_to_previous_db") for file in json.loads((tmp_path / "path.json").read_text())["files"]
    ]
    assert distances[1:3] == pytest.approx([0.0, 0.0], abs=1e-4)


def test_a_path_visits_more_than_two_clips_in_order(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--quality", "draft", "--format", "flac")
    three = (clips / "a.wav", clips / "b.wav", clips / "c.flac")
    work("interpolate", *three, "--out", tmp_path / "out", "--steps", 5, "--path", "spherical", *common)
    facts = json.loads((tmp_path / "out" / "path.json").read_text())
    assert [file["weights"] for file in facts["files"][:5]] == [
        [1, 0, 0],
        [0.5, 0.5, 0],
        [0, 1, 0],
        [0, 0.5, 0.5],
        [0, 0, 1],
    ]
    work("reconstruct", clips / "b.wav", "--out", tmp_path / "b.flac", *common[:4])
    assert (tmp_path / "b.flac").read_bytes() == (tmp_path / "out" / "02.flac").read_bytes()


def test_each_weight_makes_a_file(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    weights = ("--weight", 0.5, "--weight", -0.25, "--weight", 1.125)
    common = ("--checkpoint", checkpoint, "--quality", "draft", "--format", "ogg")
    last = work("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path, *weights, *common)
    files = ["weight_0.50.ogg", "weight_-0.25.ogg", "weight_1.125.ogg"]
    assert last == f"wrote {tmp_path}: {', '.join(files)}, path.png, path.json"
    assert names(tmp_path) == sorted([*files, "path.json", "path.png"])


def test_a_weight_for_each_of_several_clips_makes_one_blend(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    weights = ("--weight", 1, "--weight", 2, "--weight", 1)
    three = (clips / "a.wav", clips / "b.wav", clips / "d.wav")
    work("interpolate", *three, "--out", tmp_path, *weights, "--checkpoint", checkpoint, "--quality", "draft")
    assert names(tmp_path) == ["blend.wav", "path.json", "path.png"]
    assert Audio.load(tmp_path / "blend.wav").channels == 2


def test_a_curve_makes_one_file_that_starts_as_one_clip_and_ends_as_the_other(
    checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    curve = ("--curve", "0:0,0.5:0,1:1", "--fit", "trim")
    two = (clips / "a.wav", clips / "c.flac")
    work("interpolate", *two, "--out", tmp_path, *curve, "--checkpoint", checkpoint, "--quality", "draft")
    assert names(tmp_path) == ["curve.wav", "path.json", "path.png"]
    assert Audio.load(tmp_path / "curve.wav").samples == 6_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", 3, "--weight", 0.5), "only one of these can be given"),
        (("--weight", 0.5, "--curve", "0:0,1:1"), "only one of these can be given"),
        (("--steps", 1), "greater than or equal to 2"),
        (("--weight", 0.5, "--weight", 0.5), "the same one is given twice"),
        (("--weight", "nan"), "must be -100 to 100"),
        (("--weight", 1e300), "must be -100 to 100"),
        (("--curve", "0:0,half:1"), "'half:1' is not time:weight"),
        (("--path", "round"), "round"),
        (("--nonsense",), "No such option"),
    ],
)
def test_wrong_usage_of_interpolate(clips: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    assert message in misuse("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path / "out", *words)
    assert not list(tmp_path.iterdir())


def test_wrong_numbers_of_clips(clips: Path, tmp_path: Path) -> None:
    a, out = clips / "a.wav", ("--out", tmp_path / "out")
    assert "at least two recordings" in misuse("interpolate", a, *out)
    assert "2 given for 3 recordings" in misuse("interpolate", a, a, a, *out, "--weight", 1, "--weight", 2)
    assert "between two recordings only" in misuse("interpolate", a, a, a, *out, "--curve", "0:0,1:1")


# --- results in folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["generate", "reconstruct x.wav", "encode x.wav", "decode x", "train base --data x"])
def test_an_empty_out_is_wrong_usage_and_not_the_working_folder(words: str) -> None:
    assert "'--out': is empty" in misuse(*words.split(), "--out", "")
    assert "name a file or folder of this machine" in misuse(*words.split(), "--out", "s3://bucket/new")
    assert not Path("s3:").exists()


def test_absurd_numbers_of_files_are_wrong_usage(clips: Path, tmp_path: Path) -> None:
    assert "10000" in misuse("generate", "--count", 10**9, "--out", tmp_path / "new")
    clip = clips / "a.wav"
    assert "1000" in misuse("interpolate", clip, clip, "--steps", 10**9, "--out", tmp_path / "new")


def test_a_link_that_leads_nowhere_is_replaced_only_by_force(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out, clip = tmp_path / "out.wav", clips / "a.wav"
    out.symlink_to(tmp_path / "gone.wav")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "path.json").symlink_to(tmp_path / "gone.json")
    assert "exists already" in refuse("reconstruct", clip, "--out", out, "--checkpoint", checkpoint)
    assert "path.json" in refuse("interpolate", clip, clip, "--steps", 2, "--out", tmp_path / "some")
    assert out.is_symlink() and not out.exists()
    work("reconstruct", clip, "--out", out, "--checkpoint", checkpoint, "--quality", "draft", "--force")
    assert out.is_file() and not out.is_symlink() and not (tmp_path / "gone.wav").exists()


def test_results_are_replaced_only_by_force_and_nothing_else_is_touched(
    checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    words = ("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path, "--checkpoint", checkpoint)
    words = (*words, "--quality", "draft", "--steps")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "01.wav").write_text("old")
    line = refuse(*words, 2)
    assert line == f"{tmp_path}: holds results already, such as 01.wav (use --force to overwrite)"
    assert names(tmp_path) == ["01.wav", "mine.txt"]
    work(*words, 2, "--force")
    assert names(tmp_path) == ["00.wav", "01.wav", "mine.txt", "path.json", "path.png", "path.wav"]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert Audio.load(tmp_path / "01.wav").samples == 12_000


@pytest.mark.parametrize("command", ["interpolate", "generate", "decode"])
def test_an_output_folder_that_cannot_be_one_is_refused_before_any_work(
    checkpoint: Path, clips: Path, tmp_path: Path, command: str
) -> None:
    latents = tmp_path / "a.latents.safetensors"
    codec.load(checkpoint).encode(clips / "a.wav").save(latents)
    inputs = {"interpolate": [clips / "a.wav", clips / "b.wav"], "generate": [], "decode": [latents]}[command]
    (tmp_path / "file").write_text("mine")
    # The checkpoint isn't there: if it were looked for, the message would be another.
    words = (command, *inputs, "--checkpoint", "none.safetensors", "--out")
    assert refuse(*words, tmp_path / "file") == f"{tmp_path}/file: is a file, not a folder"
    assert refuse(*words, tmp_path / "file" / "x") == f"{tmp_path}/file/x: {tmp_path}/file is a file, not a folder"
    assert refuse(*words, "/proc/x").startswith("/proc/x: can't be written: ")
    assert names(tmp_path) == ["a.latents.safetensors", "file"]


def test_a_failure_on_the_way_leaves_nothing(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = AudioWriter.write

    def fail(self: AudioWriter, waveform: torch.Tensor) -> None:
        if self.path.name == "02.wav":
            raise OSError(28, "No space left on device")
        write(self, waveform)

    monkeypatch.setattr(AudioWriter, "write", fail)
    words = ("--checkpoint", checkpoint, "--quality", "draft", "--out", tmp_path / "out")
    line = refuse("interpolate", clips / "a.wav", clips / "b.wav", *words)
    assert line == f"{tmp_path}/out: can't be written: No space left on device"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_is_told_in_one_line(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(codec.Codec, "encode", interrupt)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert refuse("interpolate", clips / "a.wav", clips / "b.wav", *words, code=130) == "interrupted"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_there_are_commands_is_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audiovae.cli.main", interrupt)
    with pytest.raises(SystemExit) as end:
        start()
    assert (end.value.code, capsys.readouterr()) == (130, ("", "audiovae: interrupted\n"))


def test_an_interrupt_while_libraries_load_is_answered() -> None:
    code = """
import signal
import sys

class Interrupting:
    came = False

    def find_spec(self, name, path=None, target=None):
        if name == "numpy.lib" and not self.came:
            self.came = True
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from audiovae.__main__ import main

main()
"""
    ran = python("-c", code, "info")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "audiovae: interrupted\n")


def test_an_interrupt_while_results_move_waits_until_all_are_there(tmp_path: Path) -> None:
    names_of_results = [f"{index}.txt" for index in range(3)]
    for name in names_of_results:
        (tmp_path / name).write_text("old")

    def moved(_path: Path, target: Path, rename: Any = Path.replace) -> Path:
        signal.raise_signal(signal.SIGINT)
        return rename(_path, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", moved)
        with result_folder(tmp_path, names_of_results, force=True) as folder:
            for name in names_of_results:
                (folder / name).write_text("new")
    assert names(tmp_path) == names_of_results
    assert [(tmp_path / name).read_text() for name in names_of_results] == ["new"] * 3


def test_a_signal_to_end_leaves_nothing_half_made(checkpoint: Path, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "audiovae", "generate", "--duration", "3000", "--checkpoint", str(checkpoint))
    process = subprocess.Popen([*words, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".audiovae-*")) and process.poll() is None:
        os.sched_yield()
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "audiovae: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_results_stay_when_nobody_reads_what_is_told(checkpoint: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ("generate", "--count", "1", "--duration", "0.1", "--checkpoint", str(checkpoint), "--out", str(tmp_path))
    with os.fdopen(write, "w") as nobody:
        subprocess.run([sys.executable, "-m", "audiovae", *words], stdout=nobody, check=False)
    assert names(tmp_path) == ["00.wav", "generate.json", "generate.png"]


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    for write in (
        lambda path: whole_file(path),
        lambda path: result_folder(path.parent, [path.name], force=False),
    ):
        path = tmp_path / "a.json"
        with pytest.raises(InputError, match=r"a\.json"), write(path) as place:
            (place / "a.json" if place.is_dir() else place).write_text("second")
            path.write_text("first")
        assert names(tmp_path) == ["a.json"] and path.read_text() == "first"
        path.unlink()


def test_a_file_in_the_way_of_a_folder_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("mine")
    with pytest.raises(InputError, match="q: is a file, a folder is to be made there"):
        check_folder(tmp_path, ["p.wav", "q/y.wav"], force=True)


# --- bad input --------------------------------------------------------------------------------------------------------


def _float_wav(path: Path, value: float) -> None:
    import soundfile

    soundfile.write(path, [0.0, value, 0.0] * 1000, 44_100, subtype="FLOAT")


def _cut(path: Path, source: Path) -> None:
    path.write_bytes(source.read_bytes()[:600])


def _empty_wav(path: Path) -> None:
    import numpy as np
    import soundfile

    soundfile.write(path, np.zeros((0, 1)), 44_100)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("missing.wav", lambda path, clips: None, "No such file or directory"),
        ("folder.wav", lambda path, clips: path.mkdir(), "is not a file"),
        ("text.wav", lambda path, clips: path.write_text("hello " * 99), "damaged or not audio"),
        ("cut.flac", lambda path, clips: _cut(path, clips / "c.flac"), "damaged"),
        ("empty.wav", lambda path, clips: _empty_wav(path), "contains no samples"),
        ("nan.wav", lambda path, clips: _float_wav(path, float("nan")), "contains NaN or infinity"),
        ("infinity.wav", lambda path, clips: _float_wav(path, float("inf")), "contains NaN or infinity"),
    ],
)
def test_bad_audio_is_refused_in_one_line(
    checkpoint: Path, clips: Path, tmp_path: Path, name: str, make: Any, reason: str
) -> None:
    bad, out = tmp_path / name, tmp_path / "results"
    make(bad, clips)
    out.mkdir()
    common = ("--checkpoint", checkpoint, "--quality", "draft")
    for words in (
        ("reconstruct", bad, "--out", out / "x.wav"),
        ("interpolate", clips / "a.wav", bad, "--out", out / "x"),
        ("generate", "--like", bad, "--out", out / "x"),
    ):
        line = refuse(*words, *common)
        assert line.startswith(f"{bad}: ") and reason in line
    assert not list(out.iterdir())


def _newer(path: Path, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    path.write_bytes(content.replace(b"audiovae/3", b"audiovae/4"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path, checkpoint: None, "no such file"),
        (lambda path, checkpoint: path.mkdir(), "is a folder, not a checkpoint"),
        (lambda path, checkpoint: torch.save({"a": torch.ones(1)}, path), "not a readable checkpoint"),
        (lambda path, checkpoint: path.write_bytes(checkpoint.read_bytes()[:-9]), "not a readable checkpoint"),
        (lambda path, checkpoint: save_file({"a": torch.ones(1)}, path), "not a checkpoint of audiovae"),
        (_newer, "made by a newer audiovae"),
    ],
    ids=["missing", "folder", "pickle", "truncated", "foreign", "newer"],
)
def test_a_bad_checkpoint_is_refused_in_one_line(
    checkpoint: Path, clips: Path, tmp_path: Path, make: Any, reason: str
) -> None:
    bad, out = tmp_path / "bad.safetensors", tmp_path / "results"
    make(bad, checkpoint)
    for words in (
        ("info", bad),
        ("reconstruct", clips / "a.wav", "--out", tmp_path / "x.wav", "--checkpoint", bad),
        ("generate", "--out", out, "--checkpoint", bad),
        ("encode", clips, "--out", out, "--checkpoint", bad),
    ):
        line = refuse(*words)
        assert line.startswith(f"{bad}: ") and reason in line
    assert not out.exists() and not (tmp_path / "x.wav").exists()


def test_a_traceback_is_shown_only_when_asked(checkpoint: Path, tmp_path: Path) -> None:
    words = ("reconstruct", "missing.wav", "--out", tmp_path / "x.wav", "--checkpoint", checkpoint)
    assert isinstance(call(*words, "--debug").exception, InputError)
    ran = python("-m", "audiovae", *words)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "audiovae: missing.wav: No such file or directory\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "x.wav", "--checkpoint", checkpoint, "--device", "cuda")
    assert refuse("reconstruct", clips / "a.wav", *words) == "device cuda: torch finds no CUDA device here"


# --- reconstruct, generate, info --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_reconstruct_keeps_length_rate_and_channels(checkpoint: Path, clips: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"x.{suffix}"
    words = ("--checkpoint", checkpoint, "--quality", "draft")
    assert work("reconstruct", clips / "d.wav", "--out", out, *words) == f"wrote {out}"
    audio = Audio.load(out)
    assert (audio.samples, audio.sample_rate, audio.channels) == (6_000, 22_050, 2)


def test_silence_stays_silence(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    work("reconstruct", clips / "silence.wav", "--out", tmp_path / "x.wav", "--checkpoint", checkpoint)
    assert not Audio.load(tmp_path / "x.wav").waveform.any()


def test_reconstruct_refuses_targets_before_any_work(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("mine")
    words = ("reconstruct", clips / "a.wav", "--checkpoint", "none.safetensors", "--out")
    assert refuse(*words, tmp_path / "x.wav") == f"{tmp_path}/x.wav: exists already (use --force to overwrite)"
    assert "can't write this format" in refuse(*words, tmp_path / "x.txt")
    assert "does not exist" in refuse(*words, tmp_path / "missing" / "x.wav")
    assert (tmp_path / "x.wav").read_text() == "mine"


def test_generate_gives_the_same_sounds_for_a_seed(checkpoint: Path, tmp_path: Path) -> None:
    words = ("generate", "--count", 2, "--duration", 0.3, "--checkpoint", checkpoint, "--quality", "draft")
    last = work(*words, "--out", tmp_path / "a")
    assert last == f"wrote {tmp_path}/a: 00.wav, 01.wav, generate.png, generate.json"
    work(*words, "--out", tmp_path / "b", "--count", 1)
    work(*words, "--out", tmp_path / "c", "--seed", 1)
    first, second = ((tmp_path / "a" / name).read_bytes() for name in ("00.wav", "01.wav"))
    assert first == (tmp_path / "b" / "00.wav").read_bytes()
    assert len({first, second, (tmp_path / "c" / "00.wav").read_bytes()}) == 3
    assert Audio.load(tmp_path / "a" / "00.wav").samples == round(0.3 * 44_100)
    assert json.loads((tmp_path / "a" / "generate.json").read_text())["settings"]["seed"] == 0


def test_generate_like_a_clip(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--quality", "draft")
    like = ("--like", clips / "d.wav", "--count", 1, "--out")
    work("generate", *like, tmp_path / "same", "--amount", 0, *common)
    work("generate", *like, tmp_path / "near", *common)
    work("reconstruct", clips / "d.wav", "--out", tmp_path / "d.wav", *common)
    expected = (tmp_path / "d.wav").read_bytes()
    assert (tmp_path / "same" / "00.wav").read_bytes() == expected
    assert (tmp_path / "near" / "00.wav").read_bytes() != expected
    assert json.loads((tmp_path / "near" / "generate.json").read_text())["settings"]["amount"] == 0.3


def test_wrong_usage_of_generate(clips: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "missing" in misuse("generate", *out, "--amount", 0.5)
    assert "as long as --like" in misuse("generate", *out, "--like", clips / "a.wav", "--duration", 3)
    assert "greater than or equal to 1" in misuse("generate", *out, "--count", 0)
    for seconds in (0, -1, 4000, "nan"):
        assert "0.05 to 3600 seconds" in misuse("generate", *out, "--duration", seconds)


def test_info_says_what_a_checkpoint_is(checkpoint: Path) -> None:
    fingerprint = codec.load(checkpoint).fingerprint
    result = call("info", checkpoint)
    assert result.stdout.splitlines()[-1] == f"read {checkpoint}: fingerprint {fingerprint}"
    facts = json.loads(call("info", checkpoint, "--json").stdout)
    assert facts["fingerprint"] == fingerprint
    assert facts["file_bytes"] == checkpoint.stat().st_size
    assert (facts["step"], facts["data"], facts["license"], facts["metrics"]) == (
        3,
        "nothing",
        "CC0",
        {"error_db": 12.5},
    )
    assert (facts["latent_channels"], facts["sample_rate"], facts["n_bands"]) == (8, 44_100, 64)
    for name in ("fingerprint", "parameters", "license", "nothing"):
        assert name in result.stdout


# --- what is said -----------------------------------------------------------------------------------------------------


def test_json_is_one_object_and_names_what_was_written(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--json", "--out")
    dataset = tmp_path / "latents"
    for words in (
        ("interpolate", clips / "a.wav", clips / "silence.wav", "--weight", 0.5, *common, tmp_path / "i"),
        ("reconstruct", clips / "a.wav", *common, tmp_path / "r.wav"),
        ("generate", "--count", 1, "--duration", 0.1, *common, tmp_path / "g"),
        ("encode", clips, *common, dataset),
        ("decode", dataset, *common, tmp_path / "d"),
    ):
        result = call(*words)
        assert (result.exit_code, result.stderr) == (0, "")
        # encode tells events, one a line, of which the last is the result
        facts = json.loads(result.stdout.splitlines()[-1] if words[0] == "encode" else result.stdout)
        assert facts["checkpoint"]["file"] == str(checkpoint)
        assert facts["written"] and all(Path(path).is_file() for path in facts["written"])


def test_quiet_says_only_the_last_line(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    result = call("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint, "--quiet")
    assert (result.stdout, result.stderr) == (f"wrote {tmp_path}/x: 5 encoded, 0 done before, 0 failed\n", "")
    result = call("info", checkpoint, "--quiet")
    assert len(result.stdout.splitlines()) == 1


def test_a_file_that_was_turned_down_is_told(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = codec.Codec.stream
    monkeypatch.setattr(codec.Codec, "stream", lambda *args, **rest: (1e5 * block for block in stream(*args, **rest)))
    out = tmp_path / "x.wav"
    words = ("reconstruct", clips / "b.wav", "--out", out, "--checkpoint", checkpoint, "--quality", "draft")
    said = call(*words).stdout.splitlines()
    gain_db = json.loads(call(*words, "--json", "--force").stdout)["gain_db"]
    assert gain_db < -3
    assert said == [f"{out}: turned down by {-gain_db:.1f} dB, so that it doesn't clip", f"wrote {out}"]


# --- encode, decode ---------------------------------------------------------------------------------------------------


def test_encode_and_decode_mirror_a_folder(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint)
    dataset, out = tmp_path / "latents", tmp_path / "audio"
    words = ("encode", clips, "--out", dataset, *common)
    assert work(*words) == f"wrote {dataset}: 5 encoded, 0 done before, 0 failed"
    assert work(*words) == f"wrote {dataset}: 0 encoded, 5 done before, 0 failed"
    assert work("decode", dataset, "--out", out, *common, "--quality", "draft") == f"wrote {out}: 5 recordings"
    assert names(out) == ["a.wav", "b.wav", "c.wav", "d.wav", "silence.wav"]
    codec.load(checkpoint).encode(clips / "c.flac").save(tmp_path / "c.flac.latents.safetensors")
    work("decode", tmp_path / "c.flac.latents.safetensors", "--out", tmp_path / "one", *common, "--quality", "draft")
    work("reconstruct", clips / "c.flac", "--out", tmp_path / "c.wav", *common, "--quality", "draft")
    assert (tmp_path / "one" / "c.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()
    # A dataset keeps half precision: what comes of it has all but the same spectrum; phases are made up.
    whole, half = (stft_magnitude(Audio.load(path).waveform) for path in (tmp_path / "c.wav", out / "c.wav"))
    assert float((whole - half).norm() / whole.norm()) < 0.1
    words = ("decode", dataset, "--where", "[ab].wav", "--where", "d.wav", "--out", tmp_path / "part", *common)
    assert work(*words, "--quality", "draft") == f"wrote {tmp_path}/part: 3 recordings"
    assert names(tmp_path / "part") == ["a.wav", "b.wav", "d.wav"]
    line = refuse("decode", dataset, "--where", "e.wav", "--out", tmp_path / "none", *common)
    assert line == f"{dataset}: no encoded recording is named e.wav"


def test_decoding_that_was_stopped_goes_on(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = tmp_path / "latents", tmp_path / "out"
    work("encode", clips, "--out", dataset, "--checkpoint", checkpoint)
    words = ("decode", dataset, "--checkpoint", checkpoint, "--quality", "draft", "--out")
    work(*words, tmp_path / "whole")
    save, stop_at = codec.Codec.save, "c.wav"

    def saved(self: codec.Codec, latents: Latents, path: Path, **options: Any) -> float:
        if path.name == stop_at:
            raise KeyboardInterrupt
        return save(self, latents, path, **options)

    monkeypatch.setattr(codec.Codec, "save", saved)
    assert refuse(*words, out, code=130) == f"{out}: interrupted; the same command goes on"
    assert names(out) == [UNFINISHED, "a.wav", "b.wav"]
    for other in (("--format", "flac", "--force"), ("--where", "a.wav")):
        stop_at = "c.flac"
        kept = (out / "a.wav").stat().st_mtime_ns
        assert "--force" in other or "holds results already" in refuse(*words, out, "--quality", "best", *other)
        assert (out / "a.wav").stat().st_mtime_ns == kept
    stop_at = ""
    assert work(*words, out) == f"wrote {out}: 5 recordings, 2 of them done before"
    assert names(out) == names(tmp_path / "whole")
    for name in names(out):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "holds results already" in refuse(*words, out)
    stop_at = "b.wav"
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    assert "goes on" in refuse(*words, out, "--force", code=130)
    stop_at = ""
    assert work(*words, out, "--force").endswith("5 recordings, 1 of them done before")
    assert all((out / name).stat().st_mtime_ns > mtime_ns for name, mtime_ns in before.items())


def test_a_part_is_called_what_it_is_called_in_the_whole(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    for name in ("a.wav", "a.flac"):
        Audio.load(clips / "a.wav").save(tmp_path / "music" / name)
    common = ("--checkpoint", checkpoint, "--device", "cpu")
    work("encode", tmp_path / "music", "--out", tmp_path / "latents", *common)
    decode = ("decode", tmp_path / "latents", "--quality", "draft", *common)
    work(*decode, "--out", tmp_path / "whole")
    work(*decode, "--out", tmp_path / "part", "--where", "a.wav")
    assert names(tmp_path / "whole") == ["a.flac.wav", "a.wav.wav"]
    assert names(tmp_path / "part") == ["a.wav.wav"]


def test_a_name_is_told_as_it_is(checkpoint: Path, tmp_path: Path) -> None:
    bad = tmp_path / "two  spaces.wav"
    bad.write_text("no audio")
    line = refuse("reconstruct", bad, "--out", tmp_path / "out.wav", "--checkpoint", checkpoint)
    assert line.startswith(f"{bad}: damaged or not audio")


def test_a_damaged_shard_is_told_of(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    words = ("encode", clips / "b.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    work(*words)
    (tmp_path / "latents" / "latents-000000.parquet").write_text("damaged")
    told = call(*words).stderr
    assert told.startswith(f"audiovae: {tmp_path}/latents/.damaged-latents-000000.parquet: was damaged and set aside; ")


def test_encode_lists_what_failed_and_exits_with_1(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    words = ("encode", bad, clips / "a.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    result = call(*words)
    assert result.exit_code == 1
    source = str(bad.relative_to(os.path.commonpath([bad.parent, clips])))
    assert result.stderr.startswith(f"audiovae: {source}: damaged or not audio")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == f"wrote {tmp_path}/latents: 1 encoded, 0 done before, 1 failed\n"
    last = json.loads(call(*words, "--json").stdout.splitlines()[-1])
    assert [failure["source"] for failure in last["failures"]] == [source]
    assert (last["event"], last["encoded"], last["done_before"], last["failed"]) == ("finished", 0, 1, 1)
    result = call("encode", bad, clips / "a.wav", "--out", tmp_path / "x", "--checkpoint", checkpoint, "--fail-fast")
    assert result.exit_code == 1
    assert "failed" in result.stdout.splitlines()[-1]


def test_decode_refuses_latents_of_another_checkpoint(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other.safetensors", seed=1)
    work("encode", clips / "a.wav", "--out", tmp_path / "latents", "--checkpoint", checkpoint)
    line = refuse("decode", tmp_path / "latents", "--out", tmp_path / "out", "--checkpoint", other)
    for model in (checkpoint, other):
        assert codec.load(model).fingerprint in line
    assert not (tmp_path / "out").exists()


def test_encode_with_workers_and_options_of_the_dataset(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint)
    options_of = ("--logvar", "--precision", "float32")
    work(*common, *options_of, "--workers", 1)
    assert "was made with precision float32, logvar True: use the same, or another folder" in refuse(*common)
    assert work(*common, *options_of, "--redo", "all").endswith("5 encoded, 0 done before, 0 failed")
    (tmp_path / "list.txt").write_text(f"{clips / 'a.wav'}\n")
    assert work(*common[:1], tmp_path / "list.txt", *common[2:], *options_of).endswith("1 done before, 0 failed")
    os.utime(clips / "c.flac", ns=(1, 1))
    last = work(*common, *options_of)
    assert last.endswith(
        "5 done before, 0 failed; 1 changed since they were encoded (--redo changed encodes them again)"
    )


def test_encode_tells_events_as_json_and_little_in_a_log(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("encode", clips, "--checkpoint", checkpoint, "--out")
    monkeypatch.setattr(encode_progress, "EVENT_SECONDS", 0.0)
    events = [json.loads(line) for line in call(*words, tmp_path / "x", "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress"] * 6 + ["finished"]
    assert [event["encoded"] for event in events] == [0, 1, 2, 3, 4, 5, 5]
    assert events[-1]["audio_seconds"] == pytest.approx((12_000 * 2 + 6_000 * 2) / 44_100 + 6_000 / 22_050)
    assert events[-2]["remaining_seconds"] == 0
    assert len(call(*words, tmp_path / "quick").stdout.splitlines()) == 1
    monkeypatch.setattr(encode_progress, "LOG_SECONDS", 0.0)
    lines = call(*words, tmp_path / "long").stdout.splitlines()
    assert lines[1].startswith("1/5  0.0 h of audio, ") and lines[1].endswith(", 0 min to go")


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (KeyboardInterrupt(), 130, {"event": "interrupted"}),
        (InputError("x/latents-000000.parquet:\ncan't be written"), 1, {"event": "error"}),
    ],
)
def test_events_are_json_to_the_end_when_a_run_ends_early(
    checkpoint: Path,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    last: dict[str, str],
) -> None:
    add = writer.ShardWriter.add

    def fail_at_the_fourth(self: writer.ShardWriter, row: Row) -> None:
        if len(self.rows) == 3:
            raise error
        add(self, row)

    monkeypatch.setattr(encode_progress, "EVENT_SECONDS", 0.0)
    monkeypatch.setattr(writer.ShardWriter, "add", fail_at_the_fourth)
    result = call("encode", clips, "--checkpoint", checkpoint, "--out", tmp_path / "x", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == code
    assert [event["event"] for event in events] == ["progress"] * 4 + [last["event"]]
    assert events[-1] == events[-2] | last | ({"reason": " ".join(str(error).split())} if code == 1 else {})


def test_encode_on_ray_without_it_says_what_to_install(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refuse("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint, "--ray", "local")
    assert line == "encoding on Ray needs more packages: pip install 'audiovae[ray]'"


def test_on_ray_this_machine_needs_no_gpu_and_workers_are_the_nodes(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint, "--ray", "local", "--device", "cuda")
    assert refuse(*words) == "encoding on Ray needs more packages: pip install 'audiovae[ray]'"
    assert "not with --ray" in misuse(*words, "--workers", 2)


def test_a_second_encode_into_a_dataset_is_refused(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        line = refuse("encode", clips, "--out", tmp_path / "x", "--checkpoint", checkpoint)
    assert line == f"{tmp_path}/x: another process is writing to it"


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of eight steps for the model of ``save_tiny``, and little to validate on."""
    monkeypatch.setattr(validation, "SEGMENTS", 4)
    monkeypatch.setattr(loop, "PRIOR_SEGMENTS", 16)
    monkeypatch.setattr(loop, "LAST_PRIOR_SEGMENTS", 16)
    path = tmp_path / "quick.toml"
    path.write_text(
        "[spectrogram]\nn_bands = 64\n"
        "[model]\nlatent_channels = 8\nchannels = [8, 8, 8]\nband_strides = [4, 2, 2]\n"
        "encoder_blocks = [0, 1, 1]\ndecoder_blocks = [1, 1, 1]\nbottleneck_width = 16\nbottleneck_stride = 1\n"
        "[data]\nsegment_latent_frames = 4\nworkers = 0\nvalidation_share = 0.0\n"
        "[training]\nsteps = 8\nbatch_size = 2\nwarmup_steps = 1\nbeta_warmup_steps = 4\n"
        "log_every = 2\nvalidate_every = 8\ncheckpoint_every = 2\n"
    )
    return path


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Two recordings to train on, and one that is none."""
    folder = tmp_path / "music"
    folder.mkdir()
    Audio(tone(samples=60_000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=60_000), 44_100).save(folder / "b.wav")
    (folder / "text.wav").write_text("no audio")
    return folder


def test_train_makes_a_model_that_the_other_commands_take(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=4")
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "2 files to train on, 0 held out, 1 skipped"
    assert lines[1].startswith("skipped text.wav: damaged or not audio")
    assert "loss" in lines[2] and "dB" in lines[2] and "KL" in lines[2]
    assert lines[-1].startswith(f"wrote {run}/model.safetensors: step 4, error on training audio ")
    facts = json.loads(call("info", run / "model.safetensors", "--json").stdout)
    assert (facts["step"], facts["version"], facts["latent_channels"]) == (4, __version__, 8)
    assert "music: 2 files" in facts["data"]
    work(
        "generate", "--count", 1, "--duration", 0.2, "--checkpoint", run / "model.safetensors", "--out", tmp_path / "g"
    )
    assert refuse(*words).startswith(f"{run}: not empty (--resume {run} continues")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    line = refuse(*[mine if word == run else word for word in words])
    assert line.startswith(f"{mine}: not empty, and no run: use another folder")
    result = call("train", "--resume", run, "--set", "training.steps=6", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 6
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert "nothing left to do" in work("train", "--resume", run, "--device", "cpu", "--quiet")


def test_training_ends_in_time_and_says_how_it_goes_on(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    last = work("train", quick, "--data", music, "--out", run, "--device", "cpu", "--quiet", "--minutes", 0)
    assert last == f"{run}: time is up at step 1 of 8, state saved: --resume {run} goes on"
    result = call("train", "--resume", run, "--device", "cpu", "--json", "--minutes", 60)
    facts = json.loads(result.stdout)
    assert (facts["steps"], facts["finished"], facts["written"]) == (8, True, [f"{run}/model.safetensors"])


def test_a_model_is_tuned_only_by_a_config_that_describes_it(quick: Path, music: Path, tmp_path: Path) -> None:
    run, start = tmp_path / "run", save_tiny(tmp_path / "tiny.safetensors")
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out")
    result = call(*words, run, "--from", start)
    assert result.exit_code == 0, result.stderr
    assert "bundled: its spectrogram.n_bands is 256, not 64: " in refuse(
        *words, tmp_path / "other", "--from", "bundled"
    )
    assert "leave out CONFIG, --out and --from" in misuse("train", "--resume", run, "--from", start)


def test_a_vaes_weights_make_an_autoencoder_and_not_the_other_way_round(quick: Path, music: Path, tmp_path: Path):
    run, start = tmp_path / "run", save_tiny(tmp_path / "tiny.safetensors")
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out")
    result = call(*words, run, "--from", start, "--set", "model.variational=false")
    assert result.exit_code == 0, result.stderr
    autoencoder = run / "model.safetensors"
    assert "its model.variational is False, not True: " in refuse(*words, tmp_path / "other", "--from", autoencoder)


def test_train_by_force_replaces_the_run_only(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.txt").write_text("mine")
    (run / "log.jsonl").write_text('{"step": 1, "loss": 0}\n')
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=2", "--force")
    assert refuse(*words) == f"{run}/log.jsonl: is there, and not a run's: use another folder"
    (run / "config.json").write_text("{}")
    assert call(*words).exit_code == 0
    assert (run / "mine.txt").read_text() == "mine"
    assert json.loads((run / "log.jsonl").read_text().splitlines()[0])["step"] == 2


def test_an_interrupted_training_says_how_to_resume(
    quick: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiovae.training.loop import Trainer

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupt)
    words = ("train", quick, "--data", music, "--out", tmp_path / "run", "--device", "cpu", "--quiet")
    assert "interrupted" in refuse(*words, code=130)


def trained(quick: Path, music: Path, run: Path) -> Path:
    """A finished run of two steps."""
    words = ("--data", music, "--out", run, "--device", "cpu", "--quiet", "--set", "training.steps=2")
    work("train", quick, *words)
    return run


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few segments and a narrow network to learn a prior with."""
    monkeypatch.setattr(prior, "SEGMENTS", 24)
    monkeypatch.setattr(prior, "HELD_OUT_SEGMENTS", 8)
    monkeypatch.setattr("audiovae.model.flow.WIDTH", 48)


def test_a_trained_model_gets_a_prior_that_knows_more(quick: Path, music: Path, tmp_path: Path, few: None) -> None:
    run = trained(quick, music, tmp_path / "run")
    model, words = run / "model.safetensors", ("train-prior", run, "--device", "cpu", "--quiet")
    mixture = model.read_bytes()
    (run / "prior-of-older-weights.safetensors").touch()
    (run / ".prior-01.safetensors.1.tmp").touch()
    assert ": time is up, state saved, the same command goes on: step 0, error 1.000" in work(*words, "--minutes", 0)
    assert model.read_bytes() == mixture
    assert len(list(run.glob("*prior*"))) == 1
    assert work(*words, "--steps", 24).startswith(f"wrote {model}: step 24, error ")
    loaded, info = load_checkpoint(model), json.loads(call("info", model, "--json").stdout)
    assert loaded.prior.flow is not None
    assert (info["prior"], info["step"]) == ("mixture and flow", 2)
    assert 0 < info["metrics"]["prior_error"] < 1
    again = json.loads(call(*words[:-1], "--steps", 24, "--json").stdout)
    assert (again["finished"], again["prior_error"]) == (True, pytest.approx(info["metrics"]["prior_error"], abs=1e-4))
    work("generate", "--count", 1, "--duration", 0.3, "--checkpoint", model, "--out", tmp_path / "new", "--quiet")
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=2", "--force")
    assert call(*words).exit_code == 0
    assert not list(run.glob("prior-*"))


def test_a_prior_that_was_stopped_is_the_same_bit_for_bit(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = trained(quick, music, tmp_path / "run"), ("--device", "cpu", "--quiet", "--steps", 6)
    copy = shutil.copytree(run, tmp_path / "copy")
    work("train-prior", run, *words)
    monkeypatch.setattr(prior, "SETTINGS", prior.SETTINGS.model_copy(update={"checkpoint_every": 2}))
    step, interrupted_at = prior.FlowTrainer.step, [3]

    def interrupt(self: prior.FlowTrainer) -> torch.Tensor:
        if self.position.step in interrupted_at:
            interrupted_at.clear()
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", copy, *words, code=130)
    assert (
        line == f"{copy}: interrupted after step 3; the same command goes on from the last state saved (every 2 steps)"
    )
    work("train-prior", copy, *words)
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_prior_that_learnt_nothing_is_not_taken(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.setattr(prior.FlowTrainer, "error", lambda *_: 1.25)
    last = work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 1)
    assert last == f"{run}: nothing was learnt, the model keeps its mixture: step 1, error 1.250 of Gaussians'"
    assert (run / "model.safetensors").read_bytes() == before


def test_the_prior_of_what_is_no_run_is_refused(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a run that can be resumed: it has no config.json" in refuse("train-prior", tmp_path)
    run = trained(quick, music, tmp_path / "run")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", run, "--device", "cpu", "--quiet", code=130)
    assert line == f"{run}: interrupted after step 0; no state was saved yet"
    assert refuse("train-prior", run, "--data", tmp_path / "none").endswith("none: no such folder")
    (run / "model.safetensors").unlink()
    assert refuse("train-prior", run, "--device", "cpu") == f"{run}/model.safetensors: no such file"


def start_training(*words: object) -> subprocess.Popen[str]:
    """A training in a group of processes of its own."""
    command = [sys.executable, "-m", "audiovae", "train", *map(str, words), "--set", "training.steps=100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> list[str]:
    """What a process that is to end says on stderr; all of its group is gone in any case."""
    try:
        return process.communicate(timeout=60)[1].splitlines(keepends=True)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_training_ends_with_its_state_saved_when_nobody_reads(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    often = ("--set", "training.checkpoint_every=100000", "--set", "training.validate_every=100000")
    with start_training(quick, "--data", music, "--out", run, *often) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "/100000" in line)
        process.stdout.close()
        (line,) = ended(process)
    assert process.returncode == 1
    step = re.fullmatch(rf"audiovae: {run}: .* ended at step (\d+), state saved: --resume {run} goes on\n", line)
    assert step is not None and read_tensors(run / "state.safetensors", kind="state")[1]["step"] == step[1]


def test_a_signal_to_the_whole_group_ends_a_training_in_one_line(quick: Path, music: Path, tmp_path: Path) -> None:
    workers = ("--set", "data.workers=2")
    with start_training(quick, "--data", music, "--out", tmp_path / "run", *workers) as process:
        assert process.stdout is not None and process.stderr is not None
        next(line for line in process.stdout if "/100000" in line)
        os.killpg(process.pid, signal.SIGTERM)
        process.stdout.close()
        lines = ended(process)
    assert process.returncode == 130
    assert len(lines) == 1 and "interrupted after step" in lines[0], lines


def test_train_refuses_what_it_cannot_use(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rest = ("--data", music, "--out", run, "--device", "cpu")
    assert refuse("train", "nonsense", *rest).startswith("nonsense: neither a file nor a bundled config (")
    assert "training.speed" in refuse("train", quick, *rest, "--set", "training.speed=1")
    assert "section.field=value" in refuse("train", quick, *rest, "--set", "speed")
    assert refuse("train", quick, "--data", tmp_path / "none", "--out", run) == f"{tmp_path}/none: no such folder"
    assert "run: not a run that can be resumed: it has no config.json" in refuse("train", "--resume", run)
    assert "is missing" in misuse("train", quick, "--data", music)
    assert "CONFIG" in misuse("train", "--data", music, "--out", run)
    assert "such as --from bundled" in misuse("train", "finetune", *rest)
    assert "leave out CONFIG" in misuse("train", quick, "--resume", run)
    (tmp_path / "empty").mkdir()
    words = ("train", quick, "--data", tmp_path / "empty", "--out", run, "--device", "cpu")
    assert refuse(*words) == f"{tmp_path}/empty: no audio files in it"
    assert not run.exists()


def test_overrides_of_a_resumed_run_are_checked(quick: Path, music: Path, tmp_path: Path) -> None:
    run = training.new_run(str(quick), [], data=music, folder=tmp_path / "run")
    training._prepare_folder(run)
    again = training.resumed_run(run.folder, ["training.steps=99", "training.learning_rate=1e-5"])
    assert (again.config.training.steps, again.config.training.learning_rate) == (99, 1e-5)
    changed = {"steps": 99, "learning_rate": 1e-5}
    assert again.config == run.config.model_copy(update={"training": run.config.training.model_copy(update=changed)})
    assert (again.data, again.resumed) == (music, True)
    assert refuse("train", "--resume", run.folder, "--set", "training.steps=0").startswith("--set: training.steps: ")
    other = refuse("train", "--resume", run.folder, "--set", "model.latent_channels=9")
    assert other.startswith(f"{run.folder}: its model.latent_channels is 8, not 9: ")
    (run.folder / "config.json").write_text("{")
    assert refuse("train", "--resume", run.folder).startswith(f"{run.folder}/config.json: config: ")


def test_training_without_its_packages_says_what_to_install(
    quick: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "tensorboard" else object())
    line = refuse("train", quick, "--data", music, "--out", tmp_path / "run")
    assert line == "training needs more packages: pip install 'audiovae[train]'"


def test_no_path_is_refused_by_anything_but_our_own_words() -> None:
    paths = [
        option
        for command in app.registered_commands
        for annotation in get_type_hints(command.callback, include_extras=True).values()
        if "Path" in str(get_args(annotation)[:1])
        for option in annotation.__metadata__
    ]
    assert len(paths) > 15
    assert not [option.help for option in paths if option.parser is None]


@pytest.mark.parametrize("name", training.bundled_configs())
def test_bundled_configs_are_found_by_name_and_valid(name: str, music: Path, tmp_path: Path) -> None:
    run = training.new_run(name, [], data=music, folder=tmp_path / "run")
    assert run.config.training.steps > 0


def test_there_is_a_bundled_config_for_first_tries() -> None:
    assert "tiny" in training.bundled_configs()


@pytest.mark.slow
def test_two_processes_train_one_run(quick: Path, music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "audiovae", "train", quick)
    words = (*words, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=4")
    ran = python(*words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert sum(line.startswith("wrote ") for line in lines) == 1
    assert sum("files to train on" in line for line in lines) == 1
    assert (run / "model.safetensors").is_file()


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are text there")
def test_file_names_that_are_not_text_work(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "tiny.safetensors")
    name = os.fsdecode(b"caf\xe9.wav")
    Audio(tone(), 44100).save(tmp_path / name)
    Audio(tone(), 44100).save(tmp_path / "two\nlines.wav")
    for arguments in (
        ["reconstruct", name, "--out", os.fsdecode(b"out\xff.wav")],
        ["encode", name, "--out", "latents"],
        ["generate", "--count", "1", "--like", name, "--out", "like"],
        ["interpolate", name, "two\nlines.wav", "--steps", "2", "--out", "between"],
        ["reconstruct", os.fsdecode(b"missing\xff.wav"), "--out", "b.wav"],
    ):
        result = subprocess.run(
            [sys.executable, "-m", "audiovae", *arguments, "--checkpoint", checkpoint],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in result.stderr
        assert result.returncode == (1 if b"missing" in os.fsencode(arguments[1]) else 0), result.stderr
