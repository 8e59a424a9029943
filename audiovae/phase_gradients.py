"""The phase that Griffin-Lim starts from, integrated from the gradients of STFT magnitudes.

Prusa, Balazs & Sondergaard, "A noniterative method for reconstruction of phase from STFT magnitude" (TASLP 2017),
without its heap: which bin follows which is a matter of magnitudes alone, so that a frame's phase is one look-up in the
frame before and one addition. Phases here are in turns, 0 to 1.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from audiovae.looping import TINY, has_loops

GAUSSIAN_WIDTH = 0.25645
"""A Hann window of n samples is nearly the Gaussian exp(-pi t^2 / (GAUSSIAN_WIDTH n^2)) (the paper's table I)."""
FLOOR = 1e-10
"""Added to magnitudes, whose peak is 1, before their logarithm is taken."""


def integrate_phase(
    magnitude: Float[Tensor, "*recordings frames bins"],
    *,
    hop_length: int,
    first: int,
    before: Float[Tensor, "*recordings bins"] | None,
    block_frames: int,
) -> Float[Tensor, "*recordings frames bins"]:
    """Phases in turns of the frames from ``first`` on, given those of the frame before it, if they are known.

    A peak advances by its frequency; along its flanks the phase follows the gradient over frequency. (The paper lets
    a flank advance by itself where the frame before is louder; on music, flanks locked to peaks are 1.3 dB better.
    It takes the frequency from the gradient, which is right for a Gaussian window; see ``_deviations``.)
    Earlier frames are looked at for gradients only, and get no phase.
    """
    frames, bins = magnitude.shape[-2:]
    phase = torch.zeros_like(magnitude)
    integrate = _integrate_compiled if has_loops(magnitude) else _integrate
    if before is None:  # Peaks begin as a pulse in the first frame's middle, which is half a window after its start.
        pulse = (torch.arange(bins, device=magnitude.device) % 2 / 2).expand(phase[..., 0, :].shape)
        integrate(_with_neighbours(magnitude, 0, 1), pulse, 0, hop_length, phase[..., :1, :])
        before, first = phase[..., 0, :], 1
    while first < frames:
        last = min(first + block_frames, frames)
        integrate(_with_neighbours(magnitude, first, last), before, hop_length, hop_length, phase[..., first:last, :])
        before, first = phase[..., last - 1, :], last
    return phase


def _with_neighbours(
    magnitude: Float[Tensor, "*recordings all_frames bins"], first: int, last: int
) -> Float[Tensor, "*recordings frames_and_2 bins"]:
    """The frames and one more on either side; beyond its ends a recording goes on as it began or ended."""
    index = torch.arange(first - 1, last + 1, device=magnitude.device).clamp_(0, magnitude.shape[-2] - 1)
    return magnitude.index_select(-2, index)


def _turns_along(hop_length: int, bins: int) -> float:
    """Turns from bin to bin for a magnitude that falls by a factor e from frame to frame (the paper's equation 8)."""
    return GAUSSIAN_WIDTH * 2 * (bins - 1) / hop_length / (2 * math.pi)


def _integrate_compiled(
    magnitude: Float[Tensor, "frames_and_2 bins"],
    before: Float[Tensor, " bins"],
    advance: int,
    hop_length: int,
    phase: Float[Tensor, "frames bins"],
) -> None:
    """``_integrate`` by a compiled loop, which is several times faster on a CPU."""
    from audiovae import compiled  # numba is slow to import

    bins = phase.shape[1]
    compiled.integrate_phase(
        magnitude.numpy(),
        (magnitude + FLOOR).log_().numpy(),
        before.contiguous().numpy(),
        np.float32(advance / (2 * (bins - 1))),
        np.float32(_turns_along(hop_length, bins) / 4),
        phase.numpy(),
    )


def _integrate(
    magnitude: Float[Tensor, "*recordings frames_and_2 bins"],
    before: Float[Tensor, "*recordings bins"],
    advance: int,
    hop_length: int,
    phase: Float[Tensor, "*recordings frames bins"],
) -> None:
    """Fills in the phases that follow those of the frame before, which lies ``advance`` samples back."""
    bins = phase.shape[-1]
    log_magnitude = (magnitude + FLOOR).log_()
    # Over two frames the difference is centred. Frames begin half a window early, which is half a turn a bin.
    fall = (log_magnitude[..., :-2, :] - log_magnitude[..., 2:, :]) / 2
    along = torch.nn.functional.pad((fall[..., 1:] + fall[..., :-1]) / 2, (1, 0)).cumsum(-1)
    bin_index = torch.arange(bins, device=phase.device)
    along = along * _turns_along(hop_length, bins) + bin_index % 2 / 2
    deviation = _deviations(magnitude[..., :-1, :])
    frequency = bin_index + (deviation[..., 1:, :] + deviation[..., :-1, :]) / 2
    peak = _peaks(log_magnitude[..., 1:-1, :])
    step = frequency * (advance / (2 * (bins - 1))) - along
    ahead = (along + step.gather(-1, peak)).remainder_(1)
    # Frame t is frame t-1 looked up at its peaks, plus what it is ahead. Two such steps are one such step, so all are
    # taken in as many rounds as the number of frames has binary digits.
    reach = 1
    while reach < phase.shape[-2]:
        back = peak[..., reach:, :]
        ahead[..., reach:, :] = (ahead[..., reach:, :] + ahead[..., :-reach, :].gather(-1, back)).remainder_(1)
        peak = torch.cat([peak[..., :reach, :], peak[..., :-reach, :].gather(-1, back)], -2)
        reach *= 2
    phase.copy_((ahead + before.unsqueeze(-2).expand_as(ahead).gather(-1, peak)).remainder_(1))


def _deviations(magnitude: Float[Tensor, "*frames bins"]) -> Float[Tensor, "*frames bins"]:
    """How many bins a partial's frequency lies above each bin, if the bin is a peak.

    A sine's magnitudes in two neighbouring bins of a Hann window give it exactly (Grandke, "Interpolation algorithms
    for discrete Fourier transforms of weighted signals", 1983); the louder of a bin's two neighbours counts for more.
    """
    left, centre, right = magnitude[..., :-2], magnitude[..., 1:-1], magnitude[..., 2:]
    from_left = left * (centre - 2 * left) / (left + centre + TINY)
    from_right = right * (2 * right - centre) / (right + centre + TINY)
    return torch.nn.functional.pad(((from_left + from_right) / (left + right + TINY)).clamp_(-1, 1), (1, 1))


def _peaks(level: Float[Tensor, "*frames bins"]) -> Int[Tensor, "*frames bins"]:
    """The local maximum over bins that is reached by always going to the louder neighbour."""
    bins = level.shape[-1]
    index = torch.arange(bins, device=level.device)
    padded = torch.nn.functional.pad(level, (1, 1), value=-math.inf)
    left, right = padded[..., :-2], padded[..., 2:]
    goes_left = (left >= right) & (left > level)
    goes_right = (right > left) & (right > level)
    leftwards = (index * ~goes_left).cummax(-1).values
    rightwards = (bins - 1) - ((bins - 1 - index) * ~goes_right).flip(-1).cummax(-1).values.flip(-1)
    return torch.where(goes_right, rightwards, leftwards)
