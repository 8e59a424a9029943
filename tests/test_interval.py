import math

import pytest
import torch

from audiovae.config import SpectrogramConfig
from audiovae.evaluation.tones import tone_pairs
from audiovae.interval import (
    JUMP_COST,
    JUMP_SEMITONES,
    STEPS_A_SEMITONE,
    best_intervals,
    best_way,
    matches,
    partials,
)
from audiovae.spectrogram import Spectrogram
from tests.conftest import noise

CONFIG = SpectrogramConfig()
RATE = CONFIG.sample_rate
SPECTROGRAM = Spectrogram(CONFIG)


def spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    return SPECTROGRAM(waveform[None] / waveform.abs().max().clamp_min(1e-6))[0, 0]


def interval(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return best_intervals(*matches(*(partials(spectrogram(one), CONFIG) for one in (a, b))))


def melody(semitones: list[float], *, harmonics: int, seconds: float = 0.4) -> torch.Tensor:
    """Harmonic notes on A3, one after the other."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    fade = (torch.minimum(time, time.flip(0)) / 0.02).clamp(max=1)
    numbers = torch.arange(1, harmonics + 1)[:, None]
    notes = [
        fade * ((2 * math.pi * 220 * 2 ** (one / 12) * numbers * time).sin() / numbers).sum(0) for one in semitones
    ]
    return torch.cat(notes)[None].float()


def test_the_interval_of_two_tones_of_different_colour_is_found() -> None:
    for low, high in tone_pairs(6, same_pitch=False):
        found = interval(low.waveform(RATE), high.waveform(RATE))
        assert (found - 12 * (high.pitch_octaves - low.pitch_octaves)).abs().max() < 0.15


def test_tones_of_one_pitch_have_none() -> None:
    for first, second in tone_pairs(4, same_pitch=True):
        assert interval(first.waveform(RATE), second.waveform(RATE)).abs().max() < 0.1


def test_it_follows_two_melodies_note_by_note() -> None:
    low, high = [0, 2, 4, 5, 0], [7, 7, 0, 12, -3]
    found = interval(melody(low, harmonics=8), melody(high, harmonics=20))
    frames = 0.4 * RATE / CONFIG.hop_length
    for number, (first, second) in enumerate(zip(low, high, strict=True)):
        middle = found[round((number + 0.25) * frames) : round((number + 0.75) * frames)]
        assert (middle - (second - first)).abs().max() < 0.2, number


def test_there_and_back_are_opposite() -> None:
    a, b = melody([0, 3, 5], harmonics=8), melody([5, 1, 1], harmonics=12)
    there, back = interval(a, b), interval(b, a)
    assert ((there + back).abs() < 0.2).float().mean() > 0.95


def test_a_detuned_copy_is_matched_between_the_steps() -> None:
    found = interval(melody([0], harmonics=12), melody([0.37], harmonics=12))
    assert (found.median() - 0.37).abs() < 0.05


@pytest.mark.parametrize(
    "other", [0.3 * noise(samples=22_050, seed=1), torch.zeros(1, 22_050)], ids=["noise", "silence"]
)
def test_without_pitch_nothing_is_to_be_transposed(other: torch.Tensor) -> None:
    assert interval(noise(samples=22_050), other).abs().max() < 0.3
    assert interval(torch.zeros(1, 22_050), torch.zeros(1, 22_050)).abs().max() == 0


def test_a_rest_takes_over_the_interval_around_it() -> None:
    rest = torch.zeros(1, RATE // 3)
    a = torch.cat([melody([0], harmonics=8), rest, melody([0], harmonics=8)], dim=1)
    b = torch.cat([melody([5], harmonics=8), rest, melody([5], harmonics=8)], dim=1)
    assert (interval(a, b) - 5).abs().max() < 0.3


@pytest.mark.parametrize("semitones", [14, 16, 22])
def test_what_is_further_apart_is_matched_an_octave_nearer(semitones: int) -> None:
    found = interval(melody([0], harmonics=20), melody([semitones], harmonics=20))
    assert (found.median() - (semitones - 12)).abs() < 0.1


def test_the_best_way_is_the_best_of_all_ways() -> None:
    """What it is worth, less what its jumps cost, is more than that of any other."""
    steps = int(JUMP_SEMITONES * STEPS_A_SEMITONE)
    generator = torch.Generator().manual_seed(0)
    for places in (5, 2 * steps):
        worth = 2 * torch.randn(4, places, generator=generator)
        jumps = JUMP_COST * (torch.arange(places)[:, None] - torch.arange(places)).abs().clamp(max=steps) / steps
        total = worth[0]
        for frame in worth[1:]:
            total = (total[..., None] - jumps) + frame  # [place in the first frame, ..., in this one]
        best = torch.unravel_index(total.argmax(), total.shape)
        assert best_way(worth).tolist() == [int(place) for place in best]
