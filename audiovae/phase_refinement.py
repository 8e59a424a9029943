"""Phases refined by Griffin-Lim's iterations: those of low bins first, at a part of the sample rate.

What lies below a quarter of the Nyquist frequency is a signal at a quarter of the sample rate, and its STFT, with every
fourth sample of the window and a quarter of the hop, is the lower quarter of the bins. So an iteration there costs a
quarter. Half of all mels lie in the low eighth of the bins, and two thirds in the low quarter.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from audiovae.frame_weights import frame_weights
from audiovae.framing import Framing, Source
from audiovae.looping import has_loops

KEPT = 0.95
"""The share of the low bins that is kept: the highest lack their upper neighbours, and bands that reach beyond."""
SMALLEST_N_FFT = 16
"""A rate is skipped if frames were shorter than this there."""


class Acceleration(NamedTuple):
    """How iterates are extrapolated: Nenov, Nguyen, Balazs & Bot, "Accelerated Griffin-Lim algorithm" (2023)."""

    alpha: float
    beta: float
    gamma: float


PLAIN = Acceleration(0.0, 0.0, 1.0)
"""Griffin & Lim, "Signal estimation from modified short-time Fourier transform" (TASSP 1984)."""
FAST = Acceleration(0.99, 0.0, 1.0)
"""Perraudin, Balazs & Sondergaard, "A fast Griffin-Lim algorithm" (WASPAA 2013)."""
ACCELERATED = Acceleration(0.99, 1.1, 1.25)
"""Nenov et al., with the best of 120 settings on music."""


class Iterations(NamedTuple):
    """How often phases are refined: those of low bins at an eighth of the sample rate, then at a quarter, then all.

    That costs as much as ``full + quarter / 4 + eighth / 8`` iterations of all bins.
    """

    full: int
    quarter: int = 0
    eighth: int = 0

    def at_most(self, count: int) -> "Iterations":
        """As many at each rate, but no more than ``count``."""
        return Iterations(*(min(one, count) for one in self))

    def without(self, others: "Iterations") -> "Iterations":
        """What is left when others are taken away."""
        return Iterations(*(one - other for one, other in zip(self, others, strict=True)))


def refined(
    framing: Framing,
    spectrum: Complex[Tensor, "*recordings frames bins"],
    target: Float[Tensor, "1 *recordings frames bins_or_bands"],
    iterations: Iterations,
    acceleration: Acceleration,
) -> Source:
    """Spectra whose phases fit the target better, from those given, which may be written over.

    Of the result only the phases count and, with a bank, the shares within a band.
    """
    for divisor, count in ((8, iterations.eighth), (4, iterations.quarter)):
        if count and framing.divisible(divisor) and framing.n_fft // divisor >= SMALLEST_N_FFT:
            _refine_low(framing, divisor, spectrum, target, count, acceleration)

    def given(first: int, last: int) -> Complex[Tensor, "*recordings frames bins"]:
        return spectrum[..., first:last, :]

    if not iterations.full:
        return given
    return _iterated(framing, framing.synthesise(given, target)[0], target, iterations.full, acceleration)


def _refine_low(
    framing: Framing,
    divisor: int,
    spectrum: Complex[Tensor, "*recordings frames bins"],
    target: Float[Tensor, "1 *recordings frames bins_or_bands"],
    count: int,
    acceleration: Acceleration,
) -> None:
    """Replaces low bins by what they are after ``count`` iterations at the sample rate divided by ``divisor``."""
    bins = framing.n_fft // divisor // 2 + 1
    targets = bins if framing.bank is None else len(framing.bank.of_low_bins(bins).filters)
    given, wanted = spectrum[..., :bins].contiguous(), target[..., :targets].contiguous()
    low = framing.at_rate(divisor, frame_weights(wanted))
    source, kept = refined(low, given, wanted, Iterations(count), acceleration), int(KEPT * bins)
    for first in range(low.first, low.frames, low.block_frames):
        last = min(first + low.block_frames, low.frames)
        spectrum[..., first:last, :kept] = source(first, last)[..., :kept]


def _iterated(
    framing: Framing,
    projected: Float[Tensor, "*recordings padded_samples"],
    target: Float[Tensor, "1 *recordings frames bins_or_bands"],
    iterations: int,
    acceleration: Acceleration,
) -> Source:
    """The spectra after so many iterations, the first of which has ``projected`` already.

    The papers extrapolate spectra of signals. The STFT is linear, so extrapolating the signals is the same, with one
    array of samples to remember instead of one of frames. Names are those of Nenov et al.
    """
    c, t, d = projected, projected.clone(), projected.clone()
    for _ in range(iterations - 1):
        projected = framing.synthesise(framing.analyse(c), target)[0]
        c, t, d = _extrapolated(projected, t, d, acceleration)
    return framing.analyse(c)


def _extrapolated(
    projected: Float[Tensor, "*recordings samples"],
    t: Float[Tensor, "*recordings samples"],
    d: Float[Tensor, "*recordings samples"],
    acceleration: Acceleration,
) -> tuple[Tensor, Tensor, Tensor]:
    """The next c, t and d; what was given may be written over."""
    if not has_loops(projected):
        t_before, t = t, torch.lerp(d, projected, acceleration.gamma)
        c, d = (torch.lerp(t_before, t, 1 + weight) for weight in (acceleration.alpha, acceleration.beta))
        return c, t, d
    from audiovae import compiled  # numba is slow to import

    compiled.extrapolate(projected.numpy(), t.numpy(), d.numpy(), *map(np.float32, acceleration))
    return projected, t, d
