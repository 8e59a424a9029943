"""How far apart two sounds are in pitch, frame by frame: the transposition that makes their partials coincide."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from audiovae.config import SpectrogramConfig
from audiovae.spectrogram import band_centres_hz, magnitude_db
from audiovae.transposition import bracket

LARGEST_SEMITONES = 12
"""Sounds further apart are matched where partials of one meet some of the other: an octave nearer, mostly."""
STEPS_A_SEMITONE = 4
LARGEST_STEPS = LARGEST_SEMITONES * STEPS_A_SEMITONE
LOWEST_HZ, HIGHEST_HZ = 60.0, 6000.0
"""Where partials are compared: below, bands are wider than intervals; above, they lie close together."""
AUDIBLE_DB = 50.0
"""What lies so far under a frame's loudest band doesn't count."""
AROUND_FRAMES = 9
"""Matches are averaged over so many frames, a tenth of a second."""
TRANSPOSED_COST, JUMP_COST = 0.1, 3.0
"""Costs that better matches must outweigh, where a perfect match is worth 1 a frame: of being transposed at all, for an
octave twice as much; and, once, of a jump by a major third or more."""
JUMP_SEMITONES = 4.0
CORRELATION_FRAMES = 43
"""Half a second."""


def matches(
    a: Float[Tensor, "steps frames"], b: Float[Tensor, "steps frames"]
) -> tuple[Float[Tensor, "frames intervals"], Float[Tensor, " frames"]]:
    """How well the partials ``a``, transposed by each interval, fall on the partials ``b``: products, and their weight.

    Intervals are those of ``intervals()``. Products over weight are correlations: 1 for the same sound at that
    interval. The weight is 0 where either is silent.
    """
    size, padded = len(a), functional.pad(b, (0, 0, LARGEST_STEPS, LARGEST_STEPS))
    products = [(a * padded[start : start + size]).sum(0) for start in range(2 * LARGEST_STEPS + 1)]
    return torch.stack(products, dim=1), a.norm(dim=0) * b.norm(dim=0)


def intervals() -> Float[Tensor, " intervals"]:
    """The intervals that are tried, in semitones."""
    return torch.arange(-LARGEST_STEPS, LARGEST_STEPS + 1) / STEPS_A_SEMITONE


def best_intervals(
    products: Float[Tensor, "frames intervals"], weight: Float[Tensor, " frames"]
) -> Float[Tensor, " frames"]:
    """The interval in semitones at each frame, on the way through all matches that is worth most, less its jumps' cost.

    Frames without pitch take over the interval around them, or 0. Found by dynamic programming (Viterbi, 1967), and
    between the tried intervals by the parabola through the best match and its neighbours.
    """
    tried = intervals()
    scale = weight.mean().clamp_min(1e-9)
    worth = averaged(products / scale)
    away = tried.abs()
    cost = TRANSPOSED_COST * ((away / 0.5).clamp(max=1) + away / LARGEST_SEMITONES)
    place = best_way(worth - cost * averaged(weight[:, None] / scale).clamp_min(0.01))
    inner = place.clamp(1, len(tried) - 2)
    below, here, above = (worth.gather(1, (inner + step)[:, None])[:, 0] for step in (-1, 0, 1))
    bend = (below - 2 * here + above).clamp(max=-1e-9)
    finer = (0.5 * (below - above) / bend).clamp(-0.5, 0.5).where(place == inner, torch.zeros(()))
    return tried[place] + finer / STEPS_A_SEMITONE


def correlation_at(
    semitones: Float[Tensor, " frames"],
    products: Float[Tensor, "frames intervals"],
    weight: Float[Tensor, " frames"],
) -> Float[Tensor, " frames"]:
    """How well all partials agree at these intervals, over half a second around each frame: 0 to 1; silence with 0."""
    place = (semitones * STEPS_A_SEMITONE).round().long() + LARGEST_STEPS
    there = products.gather(1, place.clamp(0, 2 * LARGEST_STEPS)[:, None])[:, 0]
    around_it, of_all = (
        functional.avg_pool1d(one[None], CORRELATION_FRAMES, 1, CORRELATION_FRAMES // 2, count_include_pad=False)[0]
        for one in (there, weight)
    )
    return around_it / of_all.clamp_min(1e-9)


def partials(spectrogram: Float[Tensor, "n_bands frames"], config: SpectrogramConfig) -> Float[Tensor, "steps frames"]:
    """By how much levels along log frequency stand out of the octave around them; inaudible bands are 0.

    Steps are quarters of a semitone, from ``LOWEST_HZ`` on.
    """
    levels_db, octave = magnitude_db(spectrogram, config), 12 * STEPS_A_SEMITONE
    steps = torch.arange(math.log2(HIGHEST_HZ / LOWEST_HZ) * octave)
    centres = band_centres_hz(config)
    left, share = bracket(centres, LOWEST_HZ * 2 ** (steps / octave))
    level = torch.lerp(levels_db[left], levels_db[left + 1], share[:, None])
    padded = functional.pad(level.mT[:, None], (octave // 2, octave // 2), mode="replicate")
    stands_out = level - functional.avg_pool1d(padded, octave + 1, 1)[:, 0].mT
    audible = ((level - level.amax(0)) / AUDIBLE_DB + 1).clamp_min(0)
    return stands_out.clamp_min(0) * audible


def averaged(values: Float[Tensor, "frames columns"]) -> Float[Tensor, "frames columns"]:
    """Means over ``AROUND_FRAMES`` neighbouring frames."""
    half = AROUND_FRAMES // 2
    padded = functional.pad(values.mT[:, None], (half, half), mode="replicate")
    return functional.avg_pool1d(padded, AROUND_FRAMES, 1)[:, 0].mT


def best_way(worth: Float[Tensor, "frames places"]) -> Int[Tensor, " frames"]:
    """Places along the way from first to last frame with the most worth, less what its jumps cost.

    Places are ``STEPS_A_SEMITONE`` apart.
    """
    from audiovae import compiled_pitch  # numba is slow to import

    worth = worth.contiguous()
    total, came_from = worth[0].numpy().copy(), np.zeros(worth.shape, dtype=np.int16)
    step_cost = np.float32(JUMP_COST / JUMP_SEMITONES / STEPS_A_SEMITONE)
    compiled_pitch.best_way(worth.numpy(), step_cost, np.float32(JUMP_COST), total, came_from)
    places = [int(total.argmax())]
    for before in came_from[:0:-1]:
        places.append(int(before[places[-1]]))
    return torch.tensor(places[::-1])
