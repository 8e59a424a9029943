"""What of which files is evaluated, and what it is called."""

import io
import math
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import silence, tone
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.evaluation import in_betweens
from audiovae.evaluation.clips import Clip, find_clips, load_clip
from audiovae.evaluation.in_betweens import transposed_in_betweens
from audiovae.evaluation.records import _mp3

RATE = 44_100


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


def clip_of(path: Path, waveform: torch.Tensor) -> Clip:
    Audio(waveform, RATE).save(path)
    return Clip(path, path.stem, "clips")


def test_a_clip_has_the_level_and_no_offset_as_the_model_sees_it(codec: Codec, tmp_path: Path) -> None:
    plain = load_clip(clip_of(tmp_path / "plain.wav", 0.3 * tone(samples=2 * RATE)), codec)
    offset = load_clip(clip_of(tmp_path / "offset.wav", 0.3 * tone(samples=2 * RATE) + 0.1), codec)
    assert torch.allclose(offset.waveform, plain.waveform, atol=2e-4)
    assert abs(float(offset.waveform.mean())) < 1e-4


def test_a_clip_that_begins_with_silence_is_transposed_where_it_sounds(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_betweens, "TRANSPOSED_SECONDS", 0.5)
    waveform = torch.cat([silence(samples=RATE), tone(samples=RATE)], dim=1)
    clip = load_clip(clip_of(tmp_path / "late.wav", waveform), codec)
    rows = transposed_in_betweens({"VAE": codec}, [clip], advance=lambda: None)
    assert rows["truth"]["truth_relative_error"].mean == 0.0
    assert math.isfinite(rows["VAE"]["truth_relative_error"].mean)


@pytest.mark.parametrize("rate", [40_000, 96_000])
def test_sounds_of_a_rate_that_mp3_has_not_can_be_played(rate: int) -> None:
    made = _mp3(tone(samples=rate, sample_rate=rate), rate)
    sound, written = soundfile.read(io.BytesIO(made.numpy().tobytes()))
    assert written in (44_100, 48_000) and len(sound) == pytest.approx(written, rel=0.01)


def test_folders_and_files_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    for name in ("x/music/test/a.wav", "y/music/test/a.wav", "y/music/test/a.flac", "y/music/test/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Audio(tone(samples=RATE), RATE).save(tmp_path / name)
    folders = [tmp_path / "x" / "music" / "test", tmp_path / "y" / "music" / "test"]
    named = [(clip.group, clip.name) for clip in find_clips(folders)]
    assert named == [
        ("x/music/test", "a"),
        ("y/music/test", "a.flac"),
        ("y/music/test", "a.wav"),
        ("y/music/test", "b"),
    ]
    assert [clip.group for clip in find_clips([folders[0], folders[0]])] == ["music/test"]
    assert {clip.group for clip in find_clips([folders[0], folders[1].parent])} == {"music/test", "y/music"}
