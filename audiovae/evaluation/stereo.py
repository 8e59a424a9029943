"""What becomes of a stereo image: how alike the channels are, where sounds lie between them, and their mono sum.

The cues of parametric stereo coding (Breebaart et al., "Parametric coding of stereo audio", EURASIP J. Appl. Signal
Process. 2005): coherence and level difference of the channels, in bands one ERB wide (Glasberg & Moore, 1990) and over
short stretches of time.
"""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.evaluation.log_mel import HOP_LENGTH, N_FFT
from audiovae.evaluation.reconstruction import log_mel_error_db

BLOCK_FRAMES = 16
"""STFT frames (186 ms at 44.1 kHz) over which the cues are averaged: one frame alone is always coherent."""
AUDIBLE_DB = 60.0
"""Cells of band and time whose target is further below its loudest cell don't count."""
PANNED_DB = 30.0
"""Larger differences between the channels count as this: hard left, or hard right."""
TINY = 1e-20


def coherence(waveform: Float[Tensor, "2 samples"], sample_rate: int) -> Float[Tensor, "bands blocks"]:
    """Magnitude of the channels' normalised cross-spectrum: 1 where one is the other, filtered; silence has 1.

    Unrelated channels have more than 0, the more the fewer values a cell holds: some 0.3, 0.5 in the lowest bands.
    """
    power, cross = _cells(waveform, sample_rate)
    both = (power[0] * power[1]).sqrt()
    return torch.where(both > TINY, cross / both.clamp_min(TINY), 1.0).clamp_max(1.0)


def coherence_error(target: Float[Tensor, "2 samples"], output: Float[Tensor, "2 samples"], sample_rate: int) -> float:
    """Mean absolute difference of the coherences, 0 to 1, over the target's audible cells."""
    difference = coherence(output, sample_rate) - coherence(target, sample_rate)
    return _audible_mean(difference.abs(), target, sample_rate)


def coherence_shift(target: Float[Tensor, "2 samples"], output: Float[Tensor, "2 samples"], sample_rate: int) -> float:
    """Mean difference of the coherences: above 0 the image has become narrower, below 0 more diffuse."""
    difference = coherence(output, sample_rate) - coherence(target, sample_rate)
    return _audible_mean(difference, target, sample_rate)


def level_difference_error_db(
    target: Float[Tensor, "2 samples"], output: Float[Tensor, "2 samples"], sample_rate: int
) -> float:
    """Mean absolute error of left over right in dB, over the target's audible cells: how far sounds have moved."""
    difference = level_difference_db(output, sample_rate) - level_difference_db(target, sample_rate)
    return _audible_mean(difference.abs(), target, sample_rate)


def level_difference_db(waveform: Float[Tensor, "2 samples"], sample_rate: int) -> Float[Tensor, "bands blocks"]:
    """Left over right in each cell, at most ``PANNED_DB`` either way; silence has 0."""
    power, _ = _cells(waveform, sample_rate)
    left, right = (power + TINY).log10().unbind(0)
    return (10 * (left - right)).clamp(-PANNED_DB, PANNED_DB)


def side_level_error_db(target: Float[Tensor, "2 samples"], output: Float[Tensor, "2 samples"]) -> float:
    """How much louder left minus right is than in the target, beside left plus right; NaN if the target has no side."""
    true, made = (_side_over_mid_db(waveform) for waveform in (target, output))
    return made - true if math.isfinite(true) else math.nan


def comb_error_db(
    target: Float[Tensor, "2 samples"],
    output: Float[Tensor, "2 samples"],
    mono_output: Float[Tensor, "1 samples"],
    sample_rate: int,
) -> float:
    """What the mono sum of a stereo output loses by the relation of its channels' phases.

    The log-mel error of the mean of the output's channels against the mean of the target's, less that of
    ``mono_output``: what the same synthesis makes of a recording that is that mean. 0 is as good as mono.
    """
    true, made = (waveform.mean(0, keepdim=True) for waveform in (target, output))
    return log_mel_error_db(true, made, sample_rate) - log_mel_error_db(true, mono_output, sample_rate)


def _side_over_mid_db(waveform: Float[Tensor, "2 samples"]) -> float:
    left, right = waveform.double()
    side, mid = float((left - right).square().sum()), float((left + right).square().sum())
    return 10 * math.log10(side / mid) if side > 0 and mid > 0 else math.copysign(math.inf, side - mid)


def _audible_mean(values: Float[Tensor, "bands blocks"], target: Float[Tensor, "2 samples"], sample_rate: int) -> float:
    power = _cells(target, sample_rate)[0].sum(0)
    return float(values[power >= power.max() * 10 ** (-AUDIBLE_DB / 10)].mean())


def _cells(
    waveform: Float[Tensor, "2 samples"], sample_rate: int
) -> tuple[Float[Tensor, "2 bands blocks"], Float[Tensor, "bands blocks"]]:
    """Power of each channel and magnitude of the cross-spectrum in cells of band and time."""
    window = torch.hann_window(N_FFT, device=waveform.device)
    stft = torch.stft(waveform, N_FFT, HOP_LENGTH, window=window, pad_mode="constant", return_complex=True)
    bank = erb_bank(sample_rate=sample_rate, n_fft=N_FFT).to(waveform)
    cross = stft[0] * stft[1].conj()
    sums = [_over_blocks(bank @ part) for part in (*stft.abs().square(), cross.real, cross.imag)]
    return torch.stack(sums[:2]), torch.hypot(sums[2], sums[3])


def _over_blocks(values: Float[Tensor, "bands frames"]) -> Float[Tensor, "bands blocks"]:
    """Sums over blocks of frames; a last one that is not whole counts only where there is no other."""
    frames = values.shape[1]
    whole = max(BLOCK_FRAMES, frames // BLOCK_FRAMES * BLOCK_FRAMES)
    padded = torch.nn.functional.pad(values, (0, max(0, whole - frames)))[:, :whole]
    return padded.unflatten(1, (-1, BLOCK_FRAMES)).sum(2)


@cache
def erb_bank(*, sample_rate: int, n_fft: int) -> Float[Tensor, "bands bins"]:
    """Which STFT bins each band has: one ERB wide or, where that is less, one bin."""
    frequency = torch.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    number = (21.4 * (1 + 0.00437 * frequency).log10()).long()
    bands = torch.stack([(number == one).float() for one in range(int(number.max()) + 1)])
    return bands[bands.sum(1) > 0]
