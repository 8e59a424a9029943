"""``audiovae reconstruct``, ``generate`` and ``info``."""

import json
from pathlib import Path

import pytest
import torch
from commands import call, misuse, refuse, work

from audiovae import codec
from audiovae.audio import Audio
from audiovae.generation import generate


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


def test_new_sounds_fade_in_and_out_so_that_they_do_not_click(checkpoint: Path, tmp_path: Path) -> None:
    words = ("generate", "--count", 1, "--checkpoint", checkpoint, "--quality", "draft", "--duration")
    for seconds in (0.3, 13):
        work(*words, seconds, "--out", tmp_path / str(seconds))
        made = Audio.load(tmp_path / str(seconds) / "00.wav").waveform
        drawn = generate(codec.load(checkpoint, device="cpu"), duration_seconds=seconds)
        plain = codec.load(checkpoint, device="cpu").decode(drawn, quality="draft").waveform
        fade, whole = 220, slice(221, -221)  # 5 ms
        assert made.shape == plain.shape and made[..., 0] == made[..., -1] == 0
        ratio = (made[..., whole] * plain[..., whole]).sum() / plain[..., whole].square().sum()  # it may be turned down
        torch.testing.assert_close(made[..., whole], ratio * plain[..., whole], atol=1e-5, rtol=0)
        assert made[..., :fade].abs().max() < ratio * plain[..., :fade].abs().max()


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
