"""The level by which recordings are matched."""

import math

import pytest
import torch

from audiovae.level import LevelMeter, level_db

RATE = 44100


def sine(amplitude: float, seconds: float = 1.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * torch.pi * 441 * torch.arange(int(seconds * RATE)) / RATE)[None]


def test_full_scale_sine_is_at_minus_three_db():
    assert level_db(sine(1.0), RATE) == pytest.approx(-3.01, abs=0.02)


@pytest.mark.parametrize("gain_db", [-60.0, -20.0, 6.0])
def test_gain_moves_the_level_by_as_much(gain_db: float):
    assert level_db(sine(0.1 * 10 ** (gain_db / 20)), RATE) == pytest.approx(
        level_db(sine(0.1), RATE) + gain_db, abs=0.01
    )


def test_pauses_do_not_count():
    pause = torch.zeros(1, 20 * RATE)
    assert level_db(torch.cat([sine(0.5), pause], dim=1), RATE) == pytest.approx(level_db(sine(0.5), RATE), abs=0.3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 96_000, 192_000])
def test_the_rate_of_a_file_does_not_matter(rate: int):
    def bursts(rate: int) -> torch.Tensor:
        """A tenth of a second in each second."""
        time = torch.arange(10 * rate) / rate
        return (0.5 * torch.sin(2 * torch.pi * 441 * time) * (time % 1 < 0.1))[None]

    assert level_db(bursts(rate), rate) == pytest.approx(level_db(bursts(RATE), RATE), abs=0.05)


@pytest.mark.parametrize("offset", [0.3, -0.05])
def test_an_offset_is_not_heard(offset: float):
    music = torch.cat([sine(0.1), 0.02 * sine(1.0)])
    meter = LevelMeter(RATE)
    meter.add(music + torch.tensor([[offset], [0.0]]))
    assert meter.level_db == pytest.approx(level_db(music, RATE), abs=0.01)
    assert meter.offset.tolist() == pytest.approx([offset, 0], abs=1e-4)


def test_what_silence_does_not_lie_around_is_no_offset():
    clicks = torch.zeros(1, 10 * RATE)
    clicks[0, ::RATE] = 0.9
    meter = LevelMeter(RATE)
    meter.add(clicks)
    assert meter.offset == 0
    assert LevelMeter(RATE).offset.shape == (0,)


def test_a_constant_and_what_floats_can_hardly_hold_are_silence():
    assert level_db(torch.full((1, 2 * RATE), 0.3), RATE) == -math.inf
    assert level_db(1e-40 * sine(1.0), RATE) == -math.inf


def test_silence_has_no_level():
    assert level_db(torch.zeros(2, 5000), RATE) == -math.inf
    assert LevelMeter(RATE).level_db == -math.inf


def test_faint_sound_has_one():
    assert level_db(sine(1e-5), RATE) == pytest.approx(-103, abs=0.2)


@pytest.mark.parametrize("block", [100, 4096, 10007])
def test_blocks_of_any_length_give_the_same(block: int):
    waveform = torch.randn(2, 50000, generator=torch.Generator().manual_seed(1)) * 0.1
    meter = LevelMeter(RATE)
    for piece in waveform.split(block, dim=1):
        meter.add(piece)
    assert meter.level_db == pytest.approx(level_db(waveform, RATE), abs=1e-6)


def test_channels_are_averaged_in_power():
    both = torch.cat([sine(0.5), torch.zeros(1, RATE)])
    assert level_db(both, RATE) == pytest.approx(level_db(sine(0.5), RATE) - 3.01, abs=0.01)


@pytest.mark.parametrize("samples", [4108, 8195])
def test_what_is_left_over_counts_by_its_length(samples: int):
    assert level_db(sine(0.3)[:, :samples], RATE) == pytest.approx(level_db(sine(0.3), RATE), abs=0.05)


@pytest.mark.parametrize("hz", [37.68, 48.45])
def test_a_bass_tone_has_no_offset(hz: float):
    meter = LevelMeter(RATE)
    meter.add(0.3 * torch.sin(2 * torch.pi * hz * torch.arange(2 * RATE) / RATE)[None])
    assert meter.offset == 0
