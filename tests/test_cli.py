"""The commands as such: how they start, what they say, what they refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from commands import call, python, refuse
from safetensors.torch import save_file

from audiovae import __version__, alignment, codec, generation, interpolation
from audiovae.audio import CODINGS
from audiovae.cli import datasets, options, sounds
from audiovae.encoding import resume
from audiovae.errors import InputError
from audiovae.latent_dataset import schema


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


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    words = f"encode {clips} --checkpoint {checkpoint} --device cpu --out {tmp_path}/latents"
    command = f"{sys.executable} -m audiovae {words} {closed}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list((tmp_path / "latents").glob("*.parquet"))


def test_the_words_of_the_options_are_those_of_the_modules() -> None:
    assert get_args(options.Quality) == tuple(codec.ITERATIONS)
    assert get_args(options.Device) == codec.DEVICES
    assert get_args(options.Fit) == get_args(alignment.Fit)
    assert get_args(options.PathShape) == get_args(interpolation.PathShape)
    assert {f".{suffix}" for suffix in get_args(options.Format)} == set(CODINGS)
    assert get_args(datasets.Redo) == get_args(resume.Redo)
    assert (sounds.SHORTEST_SECONDS, sounds.LONGEST_SECONDS) == generation.DURATION_RANGE_SECONDS
    assert get_args(datasets.Precision) == get_args(schema.Precision)


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
    path.write_bytes(content.replace(b"audiovae/4", b"audiovae/5"))


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


def test_memory_that_torch_does_not_get_is_told_in_one_line(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reconstruct", clips / "a.wav", "--checkpoint", checkpoint, "--out", tmp_path / "out.wav")
    for said, seen in (("DefaultCPUAllocator: can't allocate memory: you tried", True), ("a defect of ours", False)):

        def fail(*_: object, said: str = said, **__: object) -> None:
            raise RuntimeError(said)

        monkeypatch.setattr(codec.Codec, "encode", fail)
        if seen:
            assert refuse(*words) == "not enough memory"
        else:
            assert isinstance(call(*words).exception, RuntimeError)


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
