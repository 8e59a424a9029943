"""Which notes of two sounds belong together, where one interval can't bring all of one to the other.

What they have in common is taken apart: the pair of pitches, one in each, whose harmonics coincide best, then the best
of what that leaves, and so on, as Klapuri (2006, "Multiple fundamental frequency estimation by summing harmonic
amplitudes") does with one sound.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from audiovae.interval import LARGEST_STEPS, LOWEST_HZ, STEPS_A_SEMITONE, averaged, best_way, intervals
from audiovae.voices import LEAST_STRENGTH, OWN_HARMONICS, Voices, voice_shares

Partials = Float[Tensor, "steps frames"]
Pitches = Float[Tensor, " frames"]
"""Steps above ``LOWEST_HZ``, or below."""
Steps = TypeVar("Steps", int, Int[Tensor, " frames"])

VOICES = 4
"""At most; more are hardly told apart, by bands or by ears."""
POOLED = 2
"""Frames that are looked at together."""
BLOCK, VECTOR_FRAMES = 256, 32
"""Pooled frames that are worked on at a time; and what their number is padded to, for a CPU's vector units."""
HARMONICS = torch.arange(1.0, 11.0)
HARMONIC_STEPS, HARMONIC_WEIGHTS = 12 * STEPS_A_SEMITONE * HARMONICS.log2(), HARMONICS**-0.5
"""Harmonics that tell of a pitch: how far above it they are, and how much they count."""
PITCHES = 5 * 12 * STEPS_A_SEMITONE
"""Pitches that are tried: five octaves from ``LOWEST_HZ`` on."""
ROOM = LARGEST_STEPS // 2
"""Steps of padding below and above the partials: so far from the middle of its pair a pitch may lie."""
INTERVAL_COST = 0.02
"""Cost of a semitone, in shares of what the strongest voice is worth: notes go to near ones unless far ones match
better by more than that."""
AGREES, AGREES_FULLY = 0.7, 0.8
"""Correlations of all partials at the one interval that fits them best as a whole. Below the first, as of chords that
are built differently, voices are free; above the second one interval is nearly enough, and leaving it costs."""
LEAST_GAIN, LEAST_DIFFERENCE = 0.25, 0.2
"""Voices are used where they take away this share, or more, of what both sounds differ by half way between them. Single
notes of different instruments, which have no other pitches, gain less by it. Sounds count as differing at least by the
second number (1 less a cosine)."""
JUDGED_FRAMES = 21
"""Pooled frames over which that is judged, and whether a pitch sounds: half a second."""
NEAR_FRAMES = 171
"""Pooled frames around one, four seconds, whose strongest voice others are compared with."""
ENOUGH = 1.0005
"""How many times better another pair of pitches must be to be taken, lest they wander where nothing sounds."""
CLEARED_HZ, CLEARED_SEMITONES = 30.0, 0.3
"""How near to a partial no other can be told from it: the larger of the two."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """Pitches that belong together, one in each sound, and in which frames they sound."""

    first: Pitches
    second: Pitches
    sounds: Bool[Tensor, " frames"]


def pooled(partials: Partials) -> Float[Tensor, "steps pooled"]:
    """What voices are found in: means of ``POOLED`` frames, in half precision, since they are kept."""
    return functional.avg_pool1d(partials, POOLED, POOLED, ceil_mode=True).half()


def find_voices(
    a: Float[Tensor, "steps pooled"],
    b: Float[Tensor, "steps pooled"],
    above_semitones: Float[Tensor, " frames"],
    correlation: Float[Tensor, " frames"],
) -> Voices:
    """Voices of two sounds, from their ``pooled`` partials.

    ``above_semitones`` is the one interval by which the second sound as a whole lies above the first, ``correlation``
    how well the partials agree at it. There are voices where the two sounds, moved half way to each other, are more
    alike if voices move by intervals of their own.
    """
    above, agrees = above_semitones[::POOLED], _agreement(correlation[::POOLED])
    cost = INTERVAL_COST * (intervals() - (agrees * above)[:, None]).abs()
    found: list[_Pair] = []
    scale = None
    while len(found) < VOICES:
        worth = averaged(torch.cat([_best_of_intervals(*left) for left in _left_in_blocks(a, b, found)]))
        scale = _typical(worth.amax(1)) if scale is None else scale
        apart = best_way(worth / scale[:, None] - cost) - LARGEST_STEPS
        middle, sounds = _best_pitches(a, b, found, apart, scale)
        if not sounds.any():
            break
        found.append(_Pair(*_refined(a, b, *(middle + half for half in _halves(apart))), sounds))
    voices = _leaving(a, b, found, above) if found else Voices.none(2, len(above))
    return voices.at((torch.arange(len(above_semitones)) / POOLED).floor())


def _left_in_blocks(a: Partials, b: Partials, found: list[_Pair]) -> Iterator[tuple[Partials, Partials]]:
    """Roots of the partials that belong to none of these voices, in blocks of frames."""
    for start in range(0, a.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        first, second = a[:, part].float().sqrt(), b[:, part].float().sqrt()
        for pair in found:
            first = torch.where(_near(pair.first[part], len(a)) & pair.sounds[part], 0.0, first)
            second = torch.where(_near(pair.second[part], len(b)) & pair.sounds[part], 0.0, second)
        yield first, second


def _near(pitch: Pitches, steps: int) -> Bool[Tensor, "steps frames"]:
    """Where a pitch's harmonics are, and nothing else can be told apart from them."""
    hz, tone_hz = (LOWEST_HZ * 2 ** (one / (12 * STEPS_A_SEMITONE)) for one in (torch.arange(steps)[:, None], pitch))
    reach = (hz * (2 ** (CLEARED_SEMITONES / 12) - 1)).clamp_min(CLEARED_HZ)
    return (hz - (hz / tone_hz).round().clamp(1, OWN_HARMONICS) * tone_hz).abs() <= reach


def _best_of_intervals(a: Partials, b: Partials) -> Float[Tensor, "frames intervals"]:
    """How well harmonics coincide at each interval, of the pitch that does best there."""
    from audiovae import compiled_pitch  # numba is slow to import

    steps, frames = a.shape
    # Loops over whole vectors are twice as fast.
    a, b = (functional.pad(one, (0, -frames % VECTOR_FRAMES, ROOM, ROOM)) for one in (a, b))
    best = torch.zeros(2 * LARGEST_STEPS + 1, a.shape[1])
    above, weights = HARMONIC_STEPS.round().long().numpy(), HARMONIC_WEIGHTS.numpy()
    for apart, greatest in enumerate(best.numpy(), start=-LARGEST_STEPS):
        in_a, in_b = (ROOM + half for half in _halves(apart))
        product = a[in_a : in_a + steps] * b[in_b : in_b + steps]
        compiled_pitch.greatest_harmonic_sums(product.numpy(), PITCHES, above, weights, greatest)
    return best[:, :frames].mT.contiguous()


def _best_pitches(
    a: Partials, b: Partials, found: list[_Pair], apart: Int[Tensor, " frames"], scale: Float[Tensor, " frames"]
) -> tuple[Pitches, Bool[Tensor, " frames"]]:
    """The pitches half way between both sounds whose harmonics coincide best at these intervals; and where they do."""
    blocks = zip(_left_in_blocks(a, b, found), apart.split(BLOCK), strict=True)
    sums = averaged(torch.cat([_at_interval(*left, steps) for left, steps in blocks])) / scale[:, None]
    middle = best_way(sums)
    there = _mean_over(sums.gather(1, middle[:, None])[:, 0], JUDGED_FRAMES)
    return middle.float(), there > LEAST_STRENGTH


def _at_interval(a: Partials, b: Partials, apart: Int[Tensor, " frames"]) -> Float[Tensor, "frames pitches"]:
    """How well harmonics coincide at each pitch half way between both, at one interval a frame."""
    middle = torch.arange(len(a))[:, None].float()
    in_a, in_b = (_at(sound, middle + half) for sound, half in zip((a, b), _halves(apart), strict=True))
    return _harmonic_sums(in_a * in_b).mT


def _halves(apart: Steps) -> tuple[Steps, Steps]:
    """How many steps two pitches lie above the middle between them; the same for both sounds the other way round."""
    return -(apart // 2), apart - apart // 2


def _harmonic_sums(partials: Partials) -> Float[Tensor, "pitches frames"]:
    """Of each pitch what there is at its harmonics."""
    sums = partials[:PITCHES].clone()
    for first, weight in zip(HARMONIC_STEPS[1:].round().long().tolist(), HARMONIC_WEIGHTS[1:].tolist(), strict=True):
        harmonic = partials[first : first + PITCHES]
        sums[: len(harmonic)].add_(harmonic, alpha=weight)
    return sums


def _refined(a: Partials, b: Partials, first: Pitches, second: Pitches) -> tuple[Pitches, Pitches]:
    """The pair of pitches near this one whose harmonics coincide best in all there is, between the steps."""
    for size in (1.0, 0.5, 0.25):
        moves = itertools.product((0.0, -size, size), repeat=2)
        pairs = [(first + of_first, second + of_second) for of_first, of_second in moves]
        worth = torch.stack([_coincidence(a, b, *pair) for pair in pairs])
        worth[0] *= ENOUGH
        best = worth.argmax(0, keepdim=True)
        first, second = (torch.stack(one).gather(0, best)[0] for one in zip(*pairs, strict=True))
    return first, second


def _coincidence(a: Partials, b: Partials, first: Pitches, second: Pitches) -> Float[Tensor, " frames"]:
    """How much there is at the harmonics of both pitches at once."""
    above = HARMONIC_STEPS[:, None]
    return (HARMONIC_WEIGHTS[:, None] * (_at(a, first + above) * _at(b, second + above)).sqrt()).sum(0)


def _at(partials: Partials, steps: Float[Tensor, "places frames"]) -> Float[Tensor, "places frames"]:
    """What is at these steps, or between two; beyond them is nothing."""
    last = len(partials) - 1
    left = steps.floor().clamp(0, last - 1).long()
    below, above = (partials.gather(0, one).float() for one in (left, left + 1))
    return torch.lerp(below, above, (steps - left).clamp(0, 1)) * ((steps >= 0) & (steps <= last))


def _leaving(a: Partials, b: Partials, found: list[_Pair], above: Float[Tensor, " frames"]) -> Voices:
    """The pairs as voices, where their own intervals bring both sounds nearer to each other than one interval does."""
    strength = torch.stack([_coincidence(a, b, pair.first, pair.second) * pair.sounds for pair in found])
    strength = strength / _typical(strength.amax(0))
    pitches = torch.stack([torch.stack([pair.first, pair.second]) for pair in found], dim=1) / STEPS_A_SEMITONE
    as_whole, with_voices = (
        _alike_half_way(a, b, voices, above) for voices in (Voices.none(2, len(above)), Voices(pitches, strength))
    )
    strength = strength * (with_voices - as_whole > LEAST_GAIN * (1 - as_whole).clamp_min(LEAST_DIFFERENCE))
    kept = (strength > LEAST_STRENGTH).any(1)
    return Voices(pitches[:, kept], strength[kept])


def _alike_half_way(
    a: Partials, b: Partials, voices: Voices, above: Float[Tensor, " frames"]
) -> Float[Tensor, " frames"]:
    """How well the roots of partials agree if both sounds move half way to each other: cosines, 1 if they do fully."""
    steps = torch.arange(len(a))[:, None].float()
    hz, sums = LOWEST_HZ * 2 ** (steps[:, 0] / (12 * STEPS_A_SEMITONE)), []
    apart = torch.cat([above[None], voices.pitches[1] - voices.pitches[0]]) * STEPS_A_SEMITONE
    for start in range(0, a.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        moved = []
        for sound, pitches, way in zip((a, b), voices.pitches, (-0.5, 0.5), strict=True):
            shares = voice_shares(pitches[:, part], voices.strength[:, part], hz)
            left = sound[:, part].float().sqrt()
            parts = [_at(share * left, steps + way * one[part]) for share, one in zip(shares, apart, strict=True)]
            moved.append(torch.stack(parts).sum(0))
        first, second = moved
        sums.append(torch.stack([(first * second).sum(0), first.square().sum(0), second.square().sum(0)]))
    met, in_a, in_b = (_mean_over(one, JUDGED_FRAMES) for one in torch.cat(sums, dim=1))
    return met / (in_a * in_b).sqrt().clamp_min(1e-9)


def _agreement(correlation: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    """0 where much doesn't move as the whole does, 1 where nearly all does."""
    return ((correlation - AGREES) / (AGREES_FULLY - AGREES)).clamp(0, 1)


def _typical(values: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    """Means over seconds around each frame, in which frames count by their own value, so that silence doesn't."""
    return (_mean_over(values.square(), NEAR_FRAMES) / _mean_over(values, NEAR_FRAMES).clamp_min(1e-9)).clamp_min(1e-9)


def _mean_over(values: Float[Tensor, " frames"], count: int) -> Float[Tensor, " frames"]:
    return functional.avg_pool1d(values[None], count, 1, count // 2, count_include_pad=False)[0]
