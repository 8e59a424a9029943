"""How far apart two sounds are in time, frame by frame: the lag at which their onsets coincide."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LARGEST_LAG_FRAMES = 43
"""Onsets further apart, half a second, are not matched."""
ATTACK_FRAMES = 3
"""A window reaches over four hops: so long a sudden attack rises."""
APART_FRAMES = 6
"""Onsets no further apart than so many frames, 70 ms, count as one."""
EDGE_FRAMES = 5
"""At both ends, without onsets: something always seems to happen there, if only that the sound is cut."""
AROUND_FRAMES = 86
"""An onset stands out of what rises on the average so many frames, a second, before and after it."""
LEAST_RATIO, HALF_RATIO = 1.8, 0.7
"""An onset rises by more than so many times the average, unlike noise and vibrato; so many more make half an onset."""
SILENT_RISE = 0.01
"""Of the model's spectrogram, over all bands, added to the average: so small a rise isn't heard."""
NEAR_FRAMES = 2.0
"""Deviation of the Gaussian that onsets are widened by: those so far apart coincide nearly."""
MOVE_COST, LAG_COST = 0.03, 0.003
"""Costs that coincidences, each worth up to 3.5, must outweigh: of a lag that changes by a frame; and, at the largest
lag, of every frame, so that the straighter one of two equally good ways is taken."""
LEAST_MET = 0.1
"""Least product of two onsets' strengths at which they fix the lag."""


def onset_strength(pieces: Iterable[Float[Tensor, "n_bands _"]]) -> Float[Tensor, " frames"]:
    """How much of an onset each frame is, 0 to 1, of a spectrogram in consecutive pieces.

    It is what rises in the bands (spectral flux: Dixon, 2006, "Onset detection revisited"), at its peaks, relative to
    what rises around: so a note that follows another softly counts, and noise doesn't.
    """
    rises, before = [], None
    for piece in pieces:
        earlier = piece[:, :1].expand(-1, ATTACK_FRAMES) if before is None else before
        longer = torch.cat([earlier, piece], dim=1)
        rises.append((longer[:, ATTACK_FRAMES:] - longer[:, :-ATTACK_FRAMES]).clamp_min(0).mean(0))
        before = longer[:, -ATTACK_FRAMES:]
    rise = torch.cat(rises)
    rise[:EDGE_FRAMES] = rise[-EDGE_FRAMES:] = 0
    around = functional.avg_pool1d(rise[None], 2 * AROUND_FRAMES + 1, 1, AROUND_FRAMES, count_include_pad=False)[0]
    stands_out = (rise / (around + SILENT_RISE) - LEAST_RATIO).clamp_min(0)
    highest = functional.max_pool1d(stands_out[None, None], 2 * APART_FRAMES + 1, 1, APART_FRAMES)[0, 0]
    peaks = torch.where(stands_out == highest, stands_out, 0.0)
    return peaks / (peaks + HALF_RATIO)


def best_lags(a: Float[Tensor, " frames"], b: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    """How much later things happen in ``b`` than in ``a``, in frames, at each frame of the time axis half way between.

    ``a`` and ``b`` are onset strengths; what is in ``a`` at frame t - lag / 2 is in ``b`` at t + lag / 2. The lags
    that let most onsets coincide for the least change: time warping with costs (Sakoe & Chiba, 1978), by dynamic
    programming over lags, so that memory grows with the length and not with its square. Between onsets that meet, lags
    change evenly; at both ends they are 0.
    """
    in_a, in_b = (_half_frames(_widened(one)) for one in (a, b))
    way, frames = _best_way(in_a, in_b), np.arange(len(a))
    met = in_a[2 * frames - way] * in_b[2 * frames + way]
    highest = functional.max_pool1d(torch.from_numpy(met)[None], 2 * APART_FRAMES + 1, 1, APART_FRAMES)[0].numpy()
    held = np.flatnonzero((met == highest) & (met > LEAST_MET))
    held = np.concatenate([frames[:1], held, frames[-1:]])
    return torch.from_numpy(np.interp(frames, held, way[held])).float()


def _best_way(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The lag at each frame along the way with most coincidences for its cost; strengths are those of half frames.

    From one frame to the next a lag stays or changes by one.
    """
    frames, lags = (len(a) + 1) // 2, np.arange(-LARGEST_LAG_FRAMES, LARGEST_LAG_FRAMES + 1)
    a, b = (np.pad(one, LARGEST_LAG_FRAMES) for one in (a, b))
    total, moves = np.where(lags == 0, 0.0, -np.inf), np.zeros((frames, len(lags)), np.int8)
    nowhere = np.array([-np.inf])
    for frame in range(1, frames):
        window = slice(2 * frame, 2 * frame + len(lags))
        from_below, from_above = np.concatenate([nowhere, total[:-1]]), np.concatenate([total[1:], nowhere])
        moved = np.maximum(from_below, from_above) - MOVE_COST
        moves[frame] = np.where(total >= moved, 0, np.where(from_below >= from_above, 1, -1))
        total = np.maximum(total, moved) + a[window][::-1] * b[window] - LAG_COST * np.abs(lags) / LARGEST_LAG_FRAMES
    places = [LARGEST_LAG_FRAMES]
    for frame in range(frames - 1, 0, -1):
        places.append(places[-1] - int(moves[frame, places[-1]]))
    return lags[places[::-1]]


def _widened(strength: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    reach = int(3 * NEAR_FRAMES)
    bell = (-(torch.arange(-reach, reach + 1) / NEAR_FRAMES).square() / 2).exp()
    return functional.conv1d(strength[None, None], bell[None, None], padding=reach)[0, 0]


def _half_frames(values: Float[Tensor, " frames"]) -> np.ndarray:
    """Values at frames and half way between them."""
    return np.interp(np.arange(2 * len(values) - 1) / 2, np.arange(len(values)), values.numpy())
