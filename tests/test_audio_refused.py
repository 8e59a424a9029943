"""Audio that is refused, read or written: one line that names the file, and nothing lost."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from audio_files import SUFFIXES, Sounds, cut, foreign_file, joined, refusal

from audiovae.audio import Audio, AudioFile, AudioWriter, check_target
from audiovae.errors import InputError


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond a limit, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_refuses_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=refusal(tmp_path / "no.wav", "No such file or directory")):
        Audio.load(tmp_path / "no.wav")
    with pytest.raises(InputError, match=refusal(tmp_path, "is not a file")):
        Audio.load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_refuses_locked_file_and_locked_folder(tmp_path: Path, sounds: Sounds) -> None:
    path = foreign_file(tmp_path / "a.wav", sounds["click"]())
    path.chmod(0)
    with pytest.raises(InputError, match=refusal(path, "Permission denied")):
        Audio.load(path)
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=refusal(tmp_path / "b.wav", "can't be written: Permission denied")):
        Audio(sounds["click"](), 44_100).save(tmp_path / "b.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.txt", "a.raw", "a.vox", "a.au"])
@pytest.mark.parametrize("content", [b"Not a sound, but a sentence.\n" * 100, b""], ids=["text", "empty"])
def test_refuses_what_is_not_audio(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=refusal(path, "(damaged or not audio|not audio, or headerless)")):
        Audio.load(path)


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU"])  # libsndfile takes an empty FLAC for no audio at all
def test_refuses_a_file_without_samples(container: str, tmp_path: Path) -> None:
    path = foreign_file(tmp_path / "a", torch.zeros(1, 0), format=container)
    with pytest.raises(InputError, match=refusal(path, "contains no samples")):
        Audio.load(path)


def test_refuses_more_than_two_channels_and_names_their_number(tmp_path: Path, sounds: Sounds) -> None:
    path = foreign_file(tmp_path / "a.wav", sounds["noise"](samples=100, channels=6))
    with pytest.raises(InputError, match=refusal(path, "has 6 channels, only mono and stereo")):
        Audio.load(path)


@pytest.mark.parametrize("sample_rate", [7_999, 192_001])
def test_refuses_sample_rates_out_of_range(sample_rate: int, tmp_path: Path, sounds: Sounds) -> None:
    path = foreign_file(tmp_path / "a.wav", sounds["click"](), samplerate=sample_rate)
    reason = f"sample rate {sample_rate} Hz is outside 8000 to 192000 Hz"
    with pytest.raises(InputError, match=refusal(path, reason)):
        Audio.load(path)
    with pytest.raises(InputError, match=refusal(tmp_path / "b.wav", reason)):
        Audio(sounds["click"](), sample_rate).save(tmp_path / "b.wav")


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC"])
def test_refuses_a_file_shorter_than_its_header_says(
    container: str, fraction: float, tmp_path: Path, sounds: Sounds
) -> None:
    path = cut(foreign_file(tmp_path / "a", sounds["noise"](samples=30_000, channels=2), format=container), fraction)
    with pytest.raises(InputError, match=refusal(path, "(damaged or )?cut off: ")):
        Audio.load(path)


def test_refuses_a_flac_with_damage_inside_also_when_streaming(tmp_path: Path, sounds: Sounds) -> None:
    path = foreign_file(tmp_path / "a.flac", sounds["noise"](samples=60_000), format="FLAC")
    content = bytearray(path.read_bytes())
    content[60_000:60_100] = bytes(100)
    path.write_bytes(content)
    file = AudioFile(path)
    with pytest.raises(InputError, match=refusal(path, r"damaged or cut off: .* beyond about \d+ samples")):
        joined(file, sample_rate=8_000, block_samples=1_000)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_nan_and_infinity(value: float, tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds["tone"]()
    waveform[0, 20_000] = value
    path = foreign_file(tmp_path / "a.wav", waveform, subtype="FLOAT")
    with pytest.raises(InputError, match=refusal(path, "contains NaN or infinity")):
        Audio.load(path)
    with pytest.raises(InputError, match=refusal(tmp_path / "b.wav", "not written, .* NaN or infinity")):
        Audio(waveform, 44_100).save(tmp_path / "b.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


# What can't be written


def test_refuses_unknown_suffix_missing_folder_and_folder_as_target(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=refusal(tmp_path / "a.m4a", ".* one of .wav, .flac, .ogg, .mp3")):
        check_target(tmp_path / "a.m4a")
    with pytest.raises(InputError, match=refusal(tmp_path / "no" / "a.wav", "the folder .*no does not exist")):
        check_target(tmp_path / "no" / "a.wav")
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(InputError, match=refusal(tmp_path / "b.wav", "is a folder")):
        check_target(tmp_path / "b.wav", force=True)


def test_existing_file_is_replaced_only_by_force(tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    recording = Audio(sounds["tone"](samples=500), 44_100)
    with pytest.raises(InputError, match=refusal(path, r"exists already \(use --force to overwrite\)")):
        recording.save(path)
    assert path.read_bytes() == b"precious"
    os.link(path, tmp_path / "opened elsewhere")
    recording.save(path, force=True)
    assert Audio.load(path).samples == 500
    assert (tmp_path / "opened elsewhere").read_bytes() == b"precious"  # replaced as a whole, not written into


def test_refuses_to_write_nothing_or_a_wrong_channel_count(tmp_path: Path, sounds: Sounds) -> None:
    with pytest.raises(InputError, match=refusal(tmp_path / "a.wav", "not written, the sound has no samples")):
        Audio(torch.zeros(1, 0), 44_100).save(tmp_path / "a.wav")
    with pytest.raises(InputError, match=refusal(tmp_path / "a.wav", "has 3 channels")):
        Audio(torch.zeros(3, 10), 44_100).save(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="2 channels for a file of 1"), AudioWriter(tmp_path / "a.wav", 8_000, 1) as w:
        w.write(sounds["stereo"]())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(suffix: str, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt), AudioWriter(path, 44_100, 1, force=True) as writer:
        writer.write(sounds["noise"]())
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("samples", [50, 30_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(suffix: str, samples: int, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / f"a{suffix}"
    with (
        full_disk(limit_bytes=samples),
        pytest.raises(InputError, match=refusal(path, "can't be written: .* Is the disk full")),
    ):
        Audio(sounds["noise"](samples=samples), 44_100).save(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_up_while_encoding_leaves_nothing(
    suffix: str, tmp_path: Path, sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    encode = AudioWriter._encode

    def encode_on_full_disk(writer: AudioWriter, target: Path) -> None:
        with full_disk(limit_bytes=2_000):  # by then the temporary floats are on the disk, only the result is refused
            encode(writer, target)

    monkeypatch.setattr(AudioWriter, "_encode", encode_on_full_disk)
    with pytest.raises(InputError, match=refusal(path, "can't be written: .* Is the disk full")):
        Audio(sounds["noise"](samples=30_000), 44_100).save(path)
    assert os.listdir(tmp_path) == []
