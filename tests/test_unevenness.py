"""Bins of wide bands as unlike as those of noise: the phases that are found make noise hiss, not buzz."""

import math

import pytest
import torch
from phase_sounds import HOP, SAMPLE_RATE, seconds
from torch import Tensor

from audiovae import looping, unevenness
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.griffin_lim import griffin_lim
from audiovae.spectrogram import Spectrogram

SPECTROGRAM = Spectrogram(SpectrogramConfig())
pytestmark = pytest.mark.usefixtures("one_thread")


def smooth_noise() -> Tensor:
    """Magnitudes of noise as a decoder gives them: each band has its mean."""
    noise = 0.1 * torch.randn(4 * SAMPLE_RATE, generator=torch.Generator().manual_seed(5))
    bands = SPECTROGRAM(noise[None, None])[0]
    return SPECTROGRAM.magnitude(bands.mean(-1, keepdim=True).expand_as(bands))


def made(magnitude: Tensor, quality: str = "standard") -> Tensor:
    return griffin_lim(magnitude, hop_length=HOP, iterations=ITERATIONS[quality], bank=SPECTROGRAM.bank)[0]


def hop_modulation(sound: Tensor, low_hz: float) -> float:
    """How deep the power above a frequency is modulated at the frame rate: 0 not at all, 2 as a train of pulses."""
    spectrum = torch.fft.rfft(sound)
    spectrum[: round(low_hz * len(sound) / SAMPLE_RATE)] = 0
    power = torch.fft.irfft(spectrum, n=len(sound)).square()
    in_hop = power[: len(power) // HOP * HOP].view(-1, HOP).mean(0)
    return float(2 * torch.fft.rfft(in_hop)[1].abs() / in_hop.sum())


@pytest.mark.parametrize("quality", ITERATIONS)
def test_noise_does_not_buzz_at_the_frame_rate(quality, monkeypatch):
    magnitude = smooth_noise()
    assert hop_modulation(made(magnitude, quality), 3000) < 0.25
    monkeypatch.setattr("audiovae.griffin_lim.uneven", lambda magnitude, *_, **__: magnitude)  # as it was without
    assert hop_modulation(made(magnitude, quality), 3000) > 1


def test_attacks_stay_sharp():
    click = torch.zeros(len(seconds(1.0)))
    click[20_000] = 0.9
    sound = made(SPECTROGRAM.magnitude(SPECTROGRAM(click[None, None])[0]))
    assert sound[19_912:20_088].square().sum() > 0.9 * sound.square().sum()


@pytest.mark.parametrize("hz", [3000.0, 5000.0])
def test_high_tones_stay_steady(hz, monkeypatch):
    tone = 0.3 * torch.sin(2 * math.pi * hz * seconds(2.0))
    magnitude = SPECTROGRAM.magnitude(SPECTROGRAM(tone[None, None])[0])

    def roughness_db() -> Tensor:
        middle = made(magnitude)[SAMPLE_RATE // 2 :][: 128 * 220]
        return (10 * middle.view(128, 220).square().mean(1).log10()).std()

    own = roughness_db()
    monkeypatch.setattr("audiovae.griffin_lim.uneven", lambda magnitude, *_, **__: magnitude)
    assert own < roughness_db() + 0.1


def test_loops_and_tensors_give_the_same(monkeypatch):
    magnitude = smooth_noise()[..., :200].mT.contiguous()
    bank = SPECTROGRAM.bank
    bands = bank.of_magnitudes(magnitude)
    by_loops = unevenness.uneven(magnitude, bands, bank=bank, hop_length=HOP)
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    batch = unevenness.uneven(magnitude[None], bank.of_magnitudes(magnitude)[None], bank=bank, hop_length=HOP)
    torch.testing.assert_close(batch[0], by_loops)


def test_narrow_bands_and_silence_stay_as_they_are():
    magnitude = smooth_noise()[..., :100].mT.contiguous()
    bank = SPECTROGRAM.bank
    out = unevenness.uneven(magnitude, bank.of_magnitudes(magnitude), bank=bank, hop_length=HOP)
    assert torch.equal(out[..., :60], magnitude[..., :60])  # up to 1.3 kHz bands have one bin
    assert not torch.equal(out[..., 200:], magnitude[..., 200:])
    silence = torch.zeros_like(magnitude)
    assert torch.equal(unevenness.uneven(silence, bank.of_magnitudes(silence), bank=bank, hop_length=HOP), silence)
