"""The reconstruction measures on signals whose answer is known."""

import math

import pytest
import torch
from conftest import noise, tone

from audiovae.evaluation.log_mel import distance_db, log_mel_db, mel_bank, stft_magnitude
from audiovae.evaluation.perceptual import why_not_zimtohrli, zimtohrli_mos
from audiovae.evaluation.reconstruction import (
    IDENTICAL_DB,
    log_mel_error_db,
    log_spectral_distance_db,
    multi_resolution_distance,
    short_window_distance_db,
    spectral_convergence_db,
)
from audiovae.evaluation.summary import summarise

RATE = 44_100


def test_an_identical_sound_has_no_error() -> None:
    sound = noise()
    assert log_mel_error_db(sound, sound, RATE) == 0
    assert log_spectral_distance_db(sound, sound) == short_window_distance_db(sound, sound) == 0
    assert multi_resolution_distance(sound, sound) == 0
    assert spectral_convergence_db(sound, sound) == IDENTICAL_DB


def test_the_sign_of_a_waveform_is_not_heard() -> None:
    sound = tone()
    assert spectral_convergence_db(sound, -sound) == IDENTICAL_DB
    assert log_mel_error_db(sound, -sound, RATE) == 0


def test_half_the_amplitude_is_6_db_everywhere() -> None:
    sound = noise(samples=44_100)
    assert log_mel_error_db(sound, sound / 2, RATE) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert log_spectral_distance_db(sound, sound / 2) == pytest.approx(20 * math.log10(2), abs=2e-2)
    assert spectral_convergence_db(sound, sound / 2) == pytest.approx(20 * math.log10(0.5), abs=1e-4)
    assert multi_resolution_distance(sound, sound / 2) == pytest.approx(0.5 + math.log(2), abs=1e-3)


def test_silence_converges_to_0_db() -> None:
    assert spectral_convergence_db(tone(), torch.zeros_like(tone())) == pytest.approx(0, abs=1e-6)


def test_what_is_80_db_under_the_peak_does_not_count() -> None:
    sound = tone(samples=44_100)
    assert log_mel_error_db(sound, sound + 1e-7 * noise(samples=44_100), RATE) < 0.05
    assert log_mel_error_db(sound, sound + 1e-2 * noise(samples=44_100), RATE) > 5


def test_short_windows_tell_a_buzz_at_the_frame_rate_from_noise() -> None:
    """To windows of four frames both are the same noise."""
    sound, other = noise(samples=44_100), noise(samples=44_100, seed=1)
    buzz = sound * (1 + torch.cos(2 * torch.pi * torch.arange(44_100) / 512)) ** 4
    buzz *= sound.norm() / buzz.norm()
    assert short_window_distance_db(sound, buzz) > 2 * short_window_distance_db(sound, other)
    assert log_spectral_distance_db(sound, buzz) < log_spectral_distance_db(sound, other)


def test_measures_are_of_the_frequency_that_is_wrong() -> None:
    near, far = tone(frequency_hz=445.0), tone(frequency_hz=880.0)
    assert log_mel_error_db(tone(), near, RATE) < log_mel_error_db(tone(), far, RATE)
    assert multi_resolution_distance(tone(), near) < multi_resolution_distance(tone(), far)


def test_the_mel_bank_is_librosas() -> None:
    import librosa

    theirs = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=128))
    torch.testing.assert_close(mel_bank(sample_rate=RATE, n_fft=2048, n_mels=128), theirs, atol=1e-6, rtol=1e-4)


def test_distance_is_rms() -> None:
    level_db = log_mel_db(stft_magnitude(noise()), RATE)
    assert distance_db(level_db + 3, level_db) == pytest.approx(3, abs=1e-4)


def test_a_summary_is_students() -> None:
    found = summarise([1.0, 2.0, 3.0, math.nan])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.interval == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.text() == "2.00 ± 2.48"
    assert summarise([math.nan]).text() == "not measured"
    assert summarise([1.5]).text() == "1.50"


def test_95_of_100_intervals_hold_the_truth() -> None:
    values = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)).tolist()
    found = [summarise(some) for some in values]
    assert 0.93 < sum(abs(one.mean) <= one.interval for one in found) / len(found) < 0.97


@pytest.mark.skipif(why_not_zimtohrli() is not None, reason="zimtohrli is not installed")
def test_zimtohrli_hears_more_noise_as_worse() -> None:
    sound = tone(samples=44_100)
    scores = [zimtohrli_mos(sound, sound + share * noise(samples=44_100), RATE) for share in (0.0, 0.01, 0.3)]
    assert scores[0] == pytest.approx(5, abs=0.01)
    assert scores[0] > scores[1] > scores[2] >= 1


def test_without_zimtohrli_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiovae.evaluation.perceptual.find_spec", lambda name: None)
    assert why_not_zimtohrli() == 'zimtohrli is not installed (pip install "audiovae[evaluate]")'
