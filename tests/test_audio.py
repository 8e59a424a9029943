"""Audio files: every format there and back, exact lengths, streaming equals whole, and everything that is refused."""

import os
import re
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from audiovae import audio
from audiovae.audio import Audio, AudioFile, AudioWriter, check_target
from audiovae.errors import InputError
from audiovae.resampling import resampled_length

Sounds = dict[str, Callable[..., Tensor]]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SNR_DB = {".wav": 120, ".flac": 120, ".ogg": 30, ".mp3": 25}
"""24 bits give about 146 dB below full scale; the lossy coders aim at the ear, but tones they keep well."""
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


def foreign_file(path: Path, waveform: Tensor, **facts: str | int) -> Path:
    """A file that some other program wrote."""
    facts = {"samplerate": 44_100, "subtype": "PCM_16", "format": "WAV", **facts}
    soundfile.write(path, waveform.T.numpy(), **facts)
    return path


def cut(path: Path, fraction: float) -> Path:
    """Keeps the first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def snr_db(got: Tensor, wanted: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (got - wanted).square().sum().clamp(min=1e-20)))


def joined(file: AudioFile, *, sample_rate: int, block_samples: int) -> Tensor:
    return torch.cat(list(file.blocks(sample_rate, block_samples)), dim=1)


def refusal(path: Path, reason: str) -> str:
    """A pattern for a message of one line that starts with the file's name and then says why."""
    return f"^{re.escape(str(path))}: {reason}[^\\n]*$"


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond a limit, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Reading


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


# Writing


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_every_sound_comes_back_from_lossless_formats(suffix: str, tmp_path: Path, sound: Tensor) -> None:
    path = tmp_path / f"a{suffix}"
    assert Audio(sound, 44_100).save(path) == 0.0
    loaded = Audio.load(path)
    assert loaded.sample_rate == 44_100
    assert loaded.waveform.shape == sound.shape
    assert (loaded.waveform - sound).abs().max() <= 2**-23


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
@pytest.mark.parametrize("name", ["tone", "sweep", "stereo"])
def test_lossy_formats_keep_tones_in_place(suffix: str, name: str, tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds[name](samples=60_000)
    path = tmp_path / f"a{suffix}"
    assert Audio(waveform, 44_100).save(path) == 0.0
    assert snr_db(Audio.load(path).waveform, waveform) > SNR_DB[suffix]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_silence_stays_silent(suffix: str, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / f"a{suffix}"
    assert Audio(sounds["silence"](), 44_100).save(path) == 0.0
    assert Audio.load(path).waveform.abs().max() < 1e-4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_length_is_exact(suffix: str, tmp_path: Path, sounds: Sounds) -> None:
    for samples in (1, 2, 63, 576, 1_105, 1_152, 1_153, 16_384, 16_385):
        path = tmp_path / f"{samples}{suffix}"
        Audio(sounds["noise"](samples=samples), 44_100).save(path)
        assert Audio.load(path).samples == AudioFile(path).samples == samples


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 96_000, 192_000])
def test_sample_rate_is_kept(suffix: str, sample_rate: int, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / f"a{suffix}"
    Audio(sounds["tone"](samples=5_001), sample_rate).save(path)
    file = AudioFile(path)
    assert (file.sample_rate, file.samples) == (sample_rate, 5_001)


@pytest.mark.parametrize(
    ("sample_rate", "written"),
    [(8_000, 8_000), (37_800, 44_100), (48_000, 48_000), (88_200, 44_100), (96_000, 48_000), (192_000, 48_000)],
)
def test_mp3_resamples_to_a_rate_that_it_knows(sample_rate: int, written: int, tmp_path: Path, sounds: Sounds) -> None:
    path = tmp_path / "a.mp3"
    Audio(sounds["tone"](samples=sample_rate // 4, sample_rate=sample_rate), sample_rate).save(path)
    loaded = Audio.load(path)
    assert (loaded.sample_rate, loaded.samples) == (written, resampled_length(sample_rate // 4, sample_rate, written))
    assert snr_db(loaded.waveform, sounds["tone"](samples=loaded.samples, sample_rate=written)) > 20


def test_wav_and_flac_hold_24_bits_and_suffixes_may_be_capital(tmp_path: Path, sounds: Sounds) -> None:
    for name in ("a.WAV", "a.flac"):
        Audio(sounds["tone"](samples=100), 44_100).save(tmp_path / name)
        assert soundfile.info(tmp_path / name).subtype == "PCM_24"


def test_wav_beyond_its_size_field_is_written_as_rf64(
    tmp_path: Path, sounds: Sounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "_WAV_BYTES", 10_000)
    waveform = sounds["noise"](samples=5_000)
    Audio(waveform, 44_100).save(tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    assert (Audio.load(tmp_path / "a.wav").waveform - waveform).abs().max() < 2**-22


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_too_loud_a_sound_is_turned_down_and_keeps_its_shape(suffix: str, tmp_path: Path, sounds: Sounds) -> None:
    loud = 8 * sounds["stereo"]()  # peak 4
    gain_db = Audio(loud, 44_100).save(tmp_path / f"a{suffix}")
    lossy = suffix in (".ogg", ".mp3")
    assert gain_db == pytest.approx(20 * np.log10(0.99 / 4), abs=0.3 if lossy else 0.01)
    loaded = Audio.load(tmp_path / f"a{suffix}").waveform
    assert loaded.abs().max() <= 1
    assert snr_db(loaded, loud * 10 ** (gain_db / 20)) > SNR_DB[suffix]


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
@pytest.mark.parametrize("samples", [1, 2_205])
def test_what_lossy_coding_adds_does_not_clip_either(suffix: str, samples: int, tmp_path: Path) -> None:
    step = torch.ones(1, samples)  # coded at this level, it overshoots
    gain_db = Audio(step, 44_100).save(tmp_path / f"a{suffix}")
    assert gain_db < 0
    assert 0.8 < Audio.load(tmp_path / f"a{suffix}").waveform.abs().max() <= 1


def test_a_path_too_long_for_the_library_is_told_as_such(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 1000:
        folder /= "x" * 200
    for attempt in (
        lambda: AudioFile(folder / "a.wav"),
        lambda: Audio(torch.zeros(1, 9), 44_100).save(folder / "a.wav"),
    ):
        with pytest.raises(InputError, match=r"a\.wav: the path is longer than the 960 bytes"):
            attempt()


def test_a_damaged_mp3_makes_its_decoder_say_nothing(
    tmp_path: Path, sounds: Sounds, capfd: pytest.CaptureFixture
) -> None:
    Audio(sounds["noise"](samples=100_000), 44_100).save(tmp_path / "a.mp3")
    content = bytearray((tmp_path / "a.mp3").read_bytes())
    content[5_000:8_000:7] = bytes(len(content[5_000:8_000:7]))
    (tmp_path / "a.mp3").write_bytes(content)
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 3])  # its header promises more
    for name in ("a.mp3", "cut.mp3"):
        with suppress(InputError):
            Audio.load(tmp_path / name)
    sys.stderr.write("ours")
    assert capfd.readouterr().err == "ours"


def test_full_scale_is_not_too_loud(tmp_path: Path) -> None:
    square = torch.tensor([[1.0, -1.0] * 50])
    assert Audio(square, 44_100).save(tmp_path / "a.wav") == 0.0
    assert (Audio.load(tmp_path / "a.wav").waveform - square).abs().max() <= 2**-23


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3"])  # Ogg streams carry a random number, see the next test
@pytest.mark.parametrize("sample_rate", [44_100, 96_000])
def test_writing_in_blocks_gives_the_same_file(suffix: str, sample_rate: int, tmp_path: Path, sounds: Sounds) -> None:
    waveform = 3 * sounds["noise"](samples=50_000, channels=2)
    gain_db = Audio(waveform, sample_rate).save(tmp_path / f"whole{suffix}")
    with AudioWriter(tmp_path / f"blocks{suffix}", sample_rate, 2) as writer:
        for block in waveform.split([0, 1, 20_000, 29_999], dim=1):
            writer.write(block)
    assert writer.gain_db == gain_db < 0
    assert (tmp_path / f"blocks{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_writing_ogg_in_blocks_gives_the_same_sound(tmp_path: Path, sounds: Sounds) -> None:
    waveform = sounds["noise"](samples=50_000, channels=2)
    Audio(waveform, 44_100).save(tmp_path / "whole.ogg")
    with AudioWriter(tmp_path / "blocks.ogg", 44_100, 2) as writer:
        for block in waveform.split(7_000, dim=1):
            writer.write(block)
    assert torch.equal(Audio.load(tmp_path / "blocks.ogg").waveform, Audio.load(tmp_path / "whole.ogg").waveform)


def test_a_minute_of_vorbis_does_not_crash(tmp_path: Path, sounds: Sounds) -> None:
    minute = sounds["silence"](samples=60 * 44_100)
    Audio(minute, 44_100).save(tmp_path / "a.ogg")
    assert AudioFile(tmp_path / "a.ogg").samples == minute.shape[1]


# What can't be read


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
