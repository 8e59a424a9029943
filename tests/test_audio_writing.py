"""Writing audio: every format comes back, nothing clips, blocks give the same file."""

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from audio_files import SNR_DB, SUFFIXES, Sounds, snr_db
from torch import Tensor

from audiovae import audio
from audiovae.audio import Audio, AudioFile, AudioWriter
from audiovae.errors import InputError
from audiovae.resampling import resampled_length


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


def test_a_rate_that_flac_has_no_number_for_is_refused_before_the_work(tmp_path: Path) -> None:
    Audio(torch.zeros(1, 100), 88_210).save(tmp_path / "a.flac")
    with pytest.raises(InputError, match=r"b\.flac: FLAC can't hold a sample rate of 88201 Hz; WAV can$"):
        AudioWriter(tmp_path / "b.flac", 88_201, 1)
    Audio(torch.zeros(1, 100), 88_201).save(tmp_path / "b.wav")


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
