"""The stereo measures on images whose answer is known."""

import math

import pytest
import torch
from conftest import noise, silence, tone
from torch import Tensor

from audiovae.evaluation.stereo import (
    PANNED_DB,
    coherence,
    coherence_error,
    coherence_shift,
    comb_error_db,
    erb_bank,
    level_difference_db,
    level_difference_error_db,
    side_level_error_db,
)

RATE = 44_100


def panned(right: float, *, sound: Tensor | None = None) -> Tensor:
    sound = noise(samples=2 * RATE) if sound is None else sound
    return torch.cat([sound, right * sound])


def test_what_is_the_same_in_both_is_coherent_at_any_balance_and_sign() -> None:
    for right in (1.0, 0.1, -1.0):
        assert float(coherence(panned(right), RATE).min()) == pytest.approx(1, abs=1e-3)


def test_unrelated_channels_are_incoherent() -> None:
    image = coherence(noise(samples=4 * RATE, channels=2), RATE)
    assert float(image[10:].mean()) < 0.15
    half = noise(samples=4 * RATE) + torch.tensor([[1.0], [0.0]]) * noise(samples=4 * RATE, seed=1)
    # Of equal powers, the part that both have is a half of the left one's: sqrt(1/2).
    assert float(coherence(half, RATE)[10:].mean()) == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_narrower_and_wider_are_told_apart() -> None:
    wide, narrow = noise(samples=2 * RATE, channels=2), panned(1.0)
    assert coherence_shift(wide, narrow, RATE) > 0.5
    assert coherence_shift(narrow, wide, RATE) < -0.5
    assert coherence_error(wide, narrow, RATE) == pytest.approx(coherence_error(narrow, wide, RATE), abs=0.05)
    assert coherence_error(wide, wide, RATE) == 0


def test_level_differences_are_decibels_up_to_hard_left() -> None:
    assert float(level_difference_db(panned(0.5), RATE).mean()) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert float(level_difference_db(panned(0.0), RATE).max()) == PANNED_DB
    assert level_difference_error_db(panned(1.0), panned(0.5), RATE) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert level_difference_error_db(panned(0.0), panned(1e-4), RATE) == 0


def test_side_is_measured_beside_the_middle() -> None:
    target = panned(0.5)
    assert side_level_error_db(target, 0.1 * target) == pytest.approx(0, abs=1e-4)
    # Left 1 and right 0 have as much side as middle; left 1 and right 1/2 have a third of its amplitude.
    assert side_level_error_db(target, panned(0.0)) == pytest.approx(20 * math.log10(3), abs=1e-4)
    assert math.isnan(side_level_error_db(panned(1.0), target))


def test_comb_is_what_the_mono_sum_loses_beyond_mono() -> None:
    target = panned(1.0)
    mono = target[:1]
    assert comb_error_db(target, target, mono, RATE) == 0
    assert comb_error_db(target, 0.5 * target, 0.5 * mono, RATE) == pytest.approx(0, abs=1e-5)
    late = torch.cat([mono, mono.roll(20, dims=1)])
    assert comb_error_db(target, late, mono, RATE) > 1
    assert comb_error_db(target, panned(-1.0), mono, RATE) > 20


def test_silence_is_no_trouble() -> None:
    quiet = silence(samples=RATE).repeat(2, 1)
    assert float(coherence(quiet, RATE).min()) == 1
    assert coherence_error(quiet, quiet, RATE) == 0
    assert level_difference_error_db(quiet, quiet, RATE) == 0


def test_short_sounds_have_one_block() -> None:
    assert coherence(panned(1.0, sound=tone(samples=2205)), RATE).shape[1] == 1


def test_every_bin_is_in_one_band() -> None:
    bank = erb_bank(sample_rate=RATE, n_fft=2048)
    assert torch.equal(bank.sum(0), torch.ones(1025))
    widths = bank.sum(1)
    assert len(bank) in range(38, 44)
    assert (widths[5:-1].diff() >= -1).all()
