"""Random segments of a folder's audio, and the spectrograms that a step learns from."""

from itertools import chain
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from audiovae.config import Config, SpectrogramConfig
from audiovae.spectrogram import Spectrogram
from audiovae.training import data
from audiovae.training.data import Cache, open_cache, segment_samples
from audiovae.training.segments import Segment, Segments, StepBatches, by_pitch, spectrograms, window_lengths

TINY = Path(data.__file__).parents[1] / "configs" / "tiny.toml"
CONFIG = Config.from_toml(TINY, ["data.gain_db=0.0", "data.pitch_semitones=0.0", "data.validation_share=0.0"])
N_FFT, SECOND = 2048, 44_100
BELOW_17_KHZ = 237  # of 256 hybrid bands


def with_data(**values: object) -> Config:
    return CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=values)})


def write_tone(path: Path, *, seconds: float = 1.0, frequency_hz: float = 440.0, amplitude: float = 0.3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * SECOND)) / SECOND
    soundfile.write(path, amplitude * np.sin(2 * np.pi * frequency_hz * time), SECOND, subtype="FLOAT")


def rms_db(segment: Segment) -> float:
    return float(10 * torch.log10(segment.waveform.square().mean()))


def equal(one: Segment, other: Segment) -> bool:
    return one.n_fft == other.n_fft and torch.equal(one.gain, other.gain) and torch.equal(one.audio, other.audio)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    for number in range(4):
        write_tone(tmp_path / "sounds" / f"{number}.wav", frequency_hz=300 + 100 * number)
    return open_cache(tmp_path / "sounds", tmp_path / "cache", CONFIG)


@pytest.fixture(scope="module")
def spectrogram() -> Spectrogram:
    return Spectrogram(CONFIG.spectrogram)


@pytest.fixture(scope="module")
def fine() -> Spectrogram:
    return Spectrogram(SpectrogramConfig(n_bands=256, bank="hybrid"))


class TestSegments:
    def test_a_segment_depends_on_seed_and_index_alone(self, cache) -> None:
        config = with_data(gain_db=6.0, pitch_semitones=2.0)
        segments = Segments(cache, "train", config, augment=True)
        forwards = [segments[index] for index in range(6)]
        again = Segments(cache, "train", config, augment=True)
        for index in reversed(range(6)):
            assert equal(again[index], forwards[index])
        training = config.training.model_copy(update={"seed": 1})
        other = Segments(cache, "train", config.model_copy(update={"training": training}), augment=True)
        assert not any(equal(other[index], forwards[index]) for index in range(6))

    def test_is_sent_to_a_worker_without_the_audio(self, cache) -> None:
        segments = Segments(cache, "train", CONFIG, augment=True)
        segments[0]
        size = len(ForkingPickler.dumps(segments))
        assert size < 10_000 < cache.audio.stat().st_size

    def test_has_the_length_that_gives_whole_latent_frames(self, cache) -> None:
        assert segment_samples(CONFIG) == len(Segments(cache, "train", CONFIG, augment=False)[0].audio)
        assert (segment_samples(CONFIG) - 2048) // 512 + 1 == 4 * 8

    def test_every_second_is_equally_likely(self, tmp_path) -> None:
        write_tone(tmp_path / "in" / "long.wav", seconds=3.0, frequency_hz=1000)
        write_tone(tmp_path / "in" / "short.wav", seconds=1.0, frequency_hz=200)
        segments = Segments(open_cache(tmp_path / "in", tmp_path / "cache", CONFIG), "train", CONFIG, augment=False)
        waveforms = [segments[index].waveform for index in range(400)]
        crossings = [int((waveform.diff(dim=0).sign().diff(dim=0) != 0).sum()) for waveform in waveforms]
        long = sum(count > 400 for count in crossings)  # 1000 Hz turns 812 times in 0.41 s, 200 Hz 162 times
        assert 300 - 3.5 * 8.7 < long < 300 + 3.5 * 8.7  # a binomial's standard deviation is 8.7

    def test_all_are_at_the_models_level_whatever_the_files(self, tmp_path) -> None:
        for name, amplitude in (("loud", 0.9), ("soft", 0.01)):
            write_tone(tmp_path / "in" / f"{name}.wav", amplitude=amplitude)
        segments = Segments(open_cache(tmp_path / "in", tmp_path / "cache", CONFIG), "train", CONFIG, augment=False)
        for index in range(8):
            assert rms_db(segments[index]) == pytest.approx(CONFIG.spectrogram.level_db, abs=0.1)

    def test_gain_is_spread_evenly_over_its_range(self, cache) -> None:
        segments = Segments(cache, "train", with_data(gain_db=6.0), augment=True)
        gains = [rms_db(segments[index]) - CONFIG.spectrogram.level_db for index in range(100)]
        assert -6.1 < min(gains) < -5 and 5 < max(gains) < 6.1
        assert abs(np.mean(gains)) < 1.2  # 3.5 standard deviations of the mean of 100

    def test_pitch_share_and_range(self, cache) -> None:
        segments = Segments(cache, "train", with_data(pitch_semitones=3.0, pitch_share=0.5), augment=True)
        shifts = [12 * np.log2(segments[index].n_fft / N_FFT) for index in range(400)]
        assert 150 < sum(shift != 0 for shift in shifts) < 215  # half of 400, less the eleventh that is no shift
        assert -3 <= min(shifts) < -2.8 and 2.8 < max(shifts) <= 3

    def test_a_file_too_short_for_the_shift_keeps_its_pitch(self, tmp_path, monkeypatch) -> None:
        write_tone(tmp_path / "in" / "a.wav", seconds=(segment_samples(CONFIG) + 10) / SECOND)
        segments = Segments(open_cache(tmp_path / "in", tmp_path / "cache", CONFIG), "train", CONFIG, augment=True)
        for n_fft, heard_as in ((4096, N_FFT), (1024, 1024)):
            monkeypatch.setattr(segments, "_augmentation", lambda random, n_fft=n_fft: (n_fft, 0.0))
            assert segments[0].n_fft == heard_as


def test_windows_have_fast_lengths_within_the_range() -> None:
    assert window_lengths(2048, 0.0) == (2048,)
    assert window_lengths(1792, 0.0) == (1792,)  # 7 x 256: not fast, but it's what there is
    assert window_lengths(2048, 3.0) == (1728, 1800, 1920, 1944, 2000, 2048, 2160, 2250, 2304, 2400, 2430)


class TestPitch:
    def at(self, cache: Cache, n_fft: int, monkeypatch: pytest.MonkeyPatch) -> Segment:
        segments = Segments(cache, "train", CONFIG, augment=True)
        monkeypatch.setattr(segments, "_augmentation", lambda random: (n_fft, 0.0))
        return segments[0]

    @pytest.mark.parametrize("n_fft", window_lengths(N_FFT, 3.0))
    def test_a_tone_comes_into_the_bin_of_the_tone_that_is_heard(self, tmp_path, monkeypatch, fine, n_fft) -> None:
        ratio = n_fft / N_FFT
        write_tone(tmp_path / "in" / "a.wav", frequency_hz=50 * SECOND / N_FFT / ratio)
        segment = self.at(open_cache(tmp_path / "in", tmp_path / "cache", CONFIG), n_fft, monkeypatch)
        bands = fine.denormalise(fine.at_pitch(segment.waveform[None], n_fft))[0]
        assert bands.shape == (256, CONFIG.data.segment_latent_frames * CONFIG.model.time_stride)
        # The low bands are one bin wide, the first of them is the first bin. The tone is at -20 dB by its mean square.
        assert set(bands.argmax(0).tolist()) == {49}
        assert float(bands[49].mean()) == pytest.approx(0.1 * 2**0.5, rel=0.01)

    @pytest.mark.parametrize("n_fft", [1728, 2430])
    def test_is_what_the_resampled_waveform_has(self, fine, n_fft) -> None:
        """Chords that fade, and noise; up to 17 kHz, where the lower pitch has nothing above 18.6 kHz."""
        random = np.random.default_rng(0)
        time = np.arange(SECOND) / SECOND
        waveform = sum(np.sin(2 * np.pi * one * time) for one in (220, 1337, 6000)) * np.exp(-3 * time)
        waveform = (0.1 * waveform + 0.01 * random.standard_normal(SECOND)).astype(np.float32)
        resampled = soxr.resample(waveform, n_fft, N_FFT, quality="VHQ")
        ours, true, unchanged = (
            fine.at_pitch(torch.from_numpy(one)[None], length)[:, :BELOW_17_KHZ, 4:60]
            for one, length in ((waveform, n_fft), (resampled, N_FFT), (waveform, N_FFT))
        )
        assert float((ours - true).abs().mean()) < 0.06 < 0.2 < float((unchanged - true).abs().mean())

    def test_the_usual_pitch_is_the_usual_spectrogram(self, cache, spectrogram) -> None:
        segment = Segments(cache, "train", CONFIG, augment=False)[0]
        usual = spectrogram(segment.waveform[None, None], center=False)
        torch.testing.assert_close(spectrograms(by_pitch([segment]), spectrogram), usual, atol=1e-4, rtol=1e-4)

    def test_a_batch_has_every_segment_once(self, cache, spectrogram) -> None:
        segments = Segments(cache, "train", with_data(pitch_semitones=3.0, gain_db=6.0), augment=True)
        drawn = [segments[index] for index in range(12)]
        groups = by_pitch(drawn)
        assert len({one.n_fft for one in drawn}) == len(groups) > 2
        together = spectrograms(groups, spectrogram)
        alone = torch.cat(
            [spectrograms(by_pitch([one]), spectrogram) for one in sorted(drawn, key=lambda one: one.n_fft)]
        )
        torch.testing.assert_close(together, alone)


class TestStepBatches:
    def test_processes_share_each_step_and_no_index_comes_twice(self) -> None:
        ranks = [list(StepBatches(0, 4, batch_size=3, rank=rank, world_size=2)) for rank in range(2)]
        together = [first + second for first, second in zip(*ranks, strict=True)]
        assert together == list(StepBatches(0, 4, batch_size=6, rank=0, world_size=1))
        assert sorted(chain.from_iterable(together)) == list(range(24))

    def test_a_resumed_run_goes_on_where_it_was(self) -> None:
        whole = list(StepBatches(0, 9, batch_size=2, rank=1, world_size=3))
        assert list(StepBatches(5, 9, batch_size=2, rank=1, world_size=3)) == whole[5:]

    def test_a_finished_run_has_none_left(self) -> None:
        batches = StepBatches(9, 5, batch_size=2, rank=0, world_size=1)
        assert len(batches) == 0 and list(batches) == []
