"""Reading audio: every format, exact lengths, any rate, and streaming equals whole."""

import struct
from pathlib import Path

import pytest
import soundfile
import torch
from audio_files import SUFFIXES, Sounds, cut, foreign_file, joined, snr_db

from audiovae.audio import Audio, AudioFile
from audiovae.resampling import resampled_length

READABLE = {
    ("WAV", "PCM_U8"): 2**-7,
    ("WAV", "PCM_16"): 2**-15,
    ("WAV", "PCM_24"): 2**-23,
    ("WAV", "PCM_32"): 2**-23,
    ("WAV", "FLOAT"): 1e-9,
    ("WAV", "DOUBLE"): 1e-7,
    ("RF64", "FLOAT"): 1e-9,
    ("FLAC", "PCM_16"): 2**-15,
    ("FLAC", "PCM_24"): 2**-23,
    ("AIFF", "PCM_16"): 2**-15,
    ("OGG", "VORBIS"): 0.05,
    ("OGG", "OPUS"): 0.1,
    ("MP3", "MPEG_LAYER_III"): 0.05,
}
"""Container and coding to the largest error that its rounding, or its coder, may make."""


@pytest.mark.parametrize("coding", READABLE, ids="-".join)
def test_reads_every_format_and_bit_depth(coding: tuple[str, str], tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds["stereo"](samples=9_001)
    container, subtype = coding
    path = foreign_file(tmp_path / "a", waveform, format=container, subtype=subtype, samplerate=48_000)
    loaded = Audio.load(path)
    assert (loaded.sample_rate, loaded.channels, loaded.samples) == (48_000, 2, 9_001)
    assert loaded.waveform.dtype == torch.float32
    assert loaded.source == str(path)
    assert (loaded.waveform - waveform).abs().max() <= READABLE[coding]


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 96_000, 192_000])
def test_facts_of_a_file_need_no_loading(sample_rate: int, tmp_path: Path, sounds: Sounds) -> None:
    file = AudioFile(foreign_file(tmp_path / "a.wav", sounds["click"](samples=800), samplerate=sample_rate))
    assert (file.sample_rate, file.channels, file.samples) == (sample_rate, 1, 800)


def test_one_sample_is_a_sound(tmp_path: Path) -> None:
    path = foreign_file(tmp_path / "a.wav", torch.tensor([[0.25]]), samplerate=192_000)
    assert Audio.load(path).waveform.tolist() == [[0.25]]
    assert Audio.load(path).resample(44_100).samples == 1


def test_wav_streamed_by_a_program_that_could_not_know_its_length_is_read(tmp_path: Path, sounds: Sounds) -> None:
    path = foreign_file(tmp_path / "a.wav", sounds["tone"](samples=1_000))
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    for unknown in (0xFFFF_FFFF, 0x7FFF_F000):  # as ffmpeg and as sox write it to a pipe
        content[place : place + 4] = struct.pack("<I", unknown)
        path.write_bytes(content)
        assert Audio.load(path).samples == 1_000


def test_samples_of_an_mp3_are_counted_where_its_header_only_estimates(tmp_path: Path, sounds: Sounds) -> None:
    waveform = torch.cat([sounds["silence"](samples=40_000), sounds["noise"](samples=40_000)], dim=1)
    path = foreign_file(tmp_path / "a.mp3", waveform, format="MP3", subtype="MPEG_LAYER_III")
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\xff\xfb", 4) :])  # without the first frame, which held the true length
    file = AudioFile(path)
    assert soundfile.info(path).frames > 100_000
    assert file.samples == Audio.load(path).samples
    assert 80_000 <= file.samples <= 83_000  # and what the encoder put before and after


def test_cut_ogg_and_mp3_give_what_is_there(tmp_path: Path, sounds: Sounds) -> None:
    for suffix in (".ogg", ".mp3"):
        path = tmp_path / f"a{suffix}"
        Audio(sounds["noise"](samples=100_000), 44_100).save(path)
        loaded = Audio.load(cut(path, 0.6))
        assert 30_000 < loaded.samples < 70_000
        assert AudioFile(path).samples == loaded.samples


def test_flac_written_to_a_pipe_is_counted(tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds["tone"](samples=20_001)
    path = foreign_file(tmp_path / "a.flac", waveform, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of the number of samples, zero where the encoder could not go back
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert AudioFile(path).samples == 20_001
    assert (Audio.load(path).waveform - waveform).abs().max() < 2**-14


def test_mp3_in_blocks_has_no_glitches(tmp_path: Path, sounds: Sounds) -> None:
    """soundfile loses MP3's bit reservoir at every seek, and seeks after every read unless told not to."""
    waveform = sounds["tone"](samples=100_000)
    path = foreign_file(tmp_path / "a.mp3", waveform, format="MP3", subtype="MPEG_LAYER_III")
    at_once, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert torch.equal(Audio.load(path).waveform, torch.from_numpy(at_once.T))
    assert torch.equal(joined(AudioFile(path), sample_rate=44_100, block_samples=1_000), torch.from_numpy(at_once.T))


# Resampling and streaming


def test_resampled_length_rounds_up_exactly() -> None:
    assert resampled_length(48_000, 48_000, 44_100) == 44_100
    assert resampled_length(1, 192_000, 44_100) == 1
    assert resampled_length(3, 2, 1) == 2
    assert resampled_length(10**12, 44_100, 48_000) == -(-(10**12) * 48_000 // 44_100)  # floats would lose the end


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("samples", [1, 2, 5, 777, 9_601])
def test_resampled_length_is_kept_to_the_sample(sample_rate: int, samples: int, sounds: Sounds) -> None:
    recording = Audio(sounds["noise"](samples=samples, channels=2), sample_rate, source="x")
    there = recording.resample(44_100)
    assert there.samples == resampled_length(samples, sample_rate, 44_100)
    assert there.source == "x"
    back = there.resample(sample_rate, samples=samples)
    assert (back.samples, back.sample_rate, back.channels) == (samples, sample_rate, 2)
    fine = Audio(recording.waveform.double(), sample_rate).resample(44_100)
    assert torch.equal(fine.waveform, there.waveform)


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 48_000, 96_000, 192_000])
def test_a_tone_is_the_same_tone_at_another_rate(sample_rate: int, sounds: Sounds) -> None:
    before = Audio(sounds["tone"](samples=sample_rate // 2, sample_rate=sample_rate), sample_rate)
    after = before.resample(44_100)
    assert snr_db(after.waveform, sounds["tone"](samples=after.samples)) > 60


def test_samples_trims_or_pads_with_silence(sounds: Sounds) -> None:
    recording = Audio(sounds["noise"](samples=100), 44_100)
    assert torch.equal(recording.resample(44_100).waveform, recording.waveform)
    assert torch.equal(recording.resample(44_100, samples=60).waveform, recording.waveform[:, :60])
    longer = recording.resample(44_100, samples=130).waveform
    assert torch.equal(longer[:, :100], recording.waveform)
    assert longer.shape == (1, 130) and not longer[:, 100:].any()


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("block_samples", [1_000, 65_536])
def test_streaming_equals_loading(sample_rate: int, block_samples: int, tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds["noise"](samples=40_001, channels=2)
    path = foreign_file(tmp_path / "a.wav", waveform, samplerate=sample_rate, subtype="FLOAT")
    whole = Audio.load(path).resample(44_100).waveform
    blocks = list(AudioFile(path).blocks(44_100, block_samples))
    assert all(block.shape == (2, block_samples) for block in blocks[:-1])
    assert 0 < blocks[-1].shape[1] <= block_samples
    assert torch.cat(blocks, dim=1).shape == whole.shape
    assert torch.allclose(torch.cat(blocks, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_streaming_equals_loading_in_every_format(suffix: str, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / f"a{suffix}"
    Audio(sounds["stereo"](samples=50_000), 48_000).save(path)
    whole = Audio.load(path).resample(44_100).waveform
    assert torch.allclose(joined(AudioFile(path), sample_rate=44_100, block_samples=4_096), whole, rtol=0, atol=1e-5)


def test_a_file_can_be_streamed_twice(tmp_path: Path, sounds: Sounds) -> None:
    file = AudioFile(foreign_file(tmp_path / "a.wav", sounds["noise"](samples=3_000)))
    first = joined(file, sample_rate=44_100, block_samples=1_000)
    assert torch.equal(first, joined(file, sample_rate=44_100, block_samples=700))
