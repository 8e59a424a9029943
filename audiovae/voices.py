"""Voices: tones that sound at once, in chords and over basses, each of which has its own interval to another sound.

One interval moves a whole spectrum: it can bring a tone to another, but only one note of a chord to its counterpart.
So what two sounds have in common is taken apart: the pair of pitches, one in each, whose harmonics coincide best, then
the best of what that leaves, and so on (as Klapuri, 2006, "Multiple fundamental frequency estimation by summing
harmonic amplitudes", does with one sound). Each voice has its share of the bands, which moves by its own interval.
What belongs to none moves by the interval of the whole, and so does a voice whose interval is that.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from audiovae.config import SpectrogramConfig
from audiovae.interval import (
    HIGHEST_HZ,
    LARGEST_SEMITONES,
    LARGEST_STEPS,
    LOWEST_HZ,
    STEPS_A_SEMITONE,
    around,
    best_way,
    intervals,
)
from audiovae.spectrogram import Spectrogram
from audiovae.transposition import band_centres_hz, transpose

Pitches = Float[Tensor, " frames"]
"""Steps above ``LOWEST_HZ``."""
Steps = TypeVar("Steps", int, Int[Tensor, " frames"])

VOICES = 4
"""At most; more are hardly told apart, by bands or by ears."""
FRAMES = 2
"""Frames that are looked at together."""
BLOCK = 256
"""Of these at a time."""
HARMONICS, OWN_HARMONICS = 10, 24
"""Harmonics that tell of a pitch, the n-th counting n ** -0.5; and those that belong to it."""
PITCHES = 5 * 12 * STEPS_A_SEMITONE
"""Pitches that are tried: five octaves from ``LOWEST_HZ`` on."""
ROOM = LARGEST_STEPS // 2
"""Steps beyond partials: so far above the middle between two pitches one of them may lie."""
INTERVAL_COST = 0.35
"""What better matches must make up for, in shares of the strongest voice's: an octave. So notes go to those next to
them."""
AGREES, AGREES_FULLY = 0.7, 0.8
"""Correlations of all partials at the interval of the whole. Of chords of other build they are lower; where they are
higher, one interval is enough, and others must make up for leaving that one."""
SAME_SEMITONES = 0.5
"""An interval so near to that of the whole is that, where the whole agrees."""
LEAST_STRENGTH = 0.1
"""Of the strongest voice: what is less is none."""
STANDS_OUT = 3.0
"""So many times what pitches have on the average a voice's must have: in noise it is less than twice."""
ENOUGH = 1.0005
"""So much better a pair of pitches must be than the one before, lest they wander where nothing sounds."""
LOBE_HZ, CLEARED_HZ, CLEARED_SEMITONES = 25.0, 45.0, 0.75
"""How far a partial reaches into the bands (deviation of a Gaussian), and where there is none beside it."""


@dataclass(frozen=True, eq=False)
class Voices:
    """Which pitches belong together in two sounds, and how strong they are; no voices, if one interval does."""

    pitches: Float[Tensor, "recordings voices frames"]
    """In semitones above ``LOWEST_HZ``."""
    strength: Float[Tensor, "voices frames"]
    """Beside the strongest voice's mean."""

    @classmethod
    def none(cls, recordings: int, frames: int) -> "Voices":
        """Everything moves by one interval."""
        return cls(torch.zeros(recordings, 0, frames), torch.zeros(0, frames))

    def at(self, places: Float[Tensor, " places"]) -> "Voices":
        """Those at other frames. From one note to the next there are none between: the nearest frame says."""
        nearest = places.round().long().clamp(0, self.strength.shape[-1] - 1)
        return Voices(self.pitches[..., nearest], self.strength[..., nearest])


def in_frames(partials: Float[Tensor, "steps frames"]) -> Float[Tensor, "steps fewer"]:
    """What voices are found in, of partials: means of ``FRAMES``, in half precision, since they are kept."""
    return functional.avg_pool1d(partials, FRAMES, FRAMES, ceil_mode=True).half()


def find_voices(
    a: Float[Tensor, "steps fewer"],
    b: Float[Tensor, "steps fewer"],
    above_semitones: Float[Tensor, " frames"],
    correlation: Float[Tensor, " frames"],
) -> Voices:
    """Voices of two sounds whose partials these are (``in_frames``), how far the second lies above the first as a
    whole, and how well partials agree there. Those that move as the whole does are left out."""
    above, agrees = (_fewer(one, a.shape[1]) for one in (above_semitones, _agreement(correlation)))
    found: list[tuple[Tensor, Tensor]] = []
    strongest = 0.0
    while len(found) < VOICES:
        worth = torch.cat([_best_of_intervals(*left) for left in _left_in_blocks(a, b, found)])
        strongest = strongest or max(float(worth.amax(1).mean()), 1e-9)
        cost = INTERVAL_COST * (intervals() - (agrees * above)[:, None]).abs() / LARGEST_SEMITONES
        way = best_way((around(worth / strongest) - cost).numpy(), intervals().numpy())
        apart = (way - LARGEST_STEPS).split(BLOCK)
        blocks = zip(_left_in_blocks(a, b, found), apart, strict=True)
        sums = around(torch.cat([_at_interval(*left, its) for left, its in blocks]) / strongest)
        middle = best_way(sums.numpy(), (torch.arange(PITCHES) / STEPS_A_SEMITONE).numpy())
        strength = float(sums.gather(1, middle[:, None]).mean())
        if strength <= max(LEAST_STRENGTH, STANDS_OUT * float(sums.mean())):
            break
        found.append(_refined(a, b, *(middle.float() + its for its in _halves(way - LARGEST_STEPS))))
    if not found:
        return Voices.none(2, len(above_semitones))
    pitches = torch.stack([torch.stack(one) for one in found], dim=1) / STEPS_A_SEMITONE
    strength = torch.stack([_coincidence(a, b, *one) for one in found])
    voices = _of_their_own(pitches, strength / strength.amax(0).mean().clamp_min(1e-9), above, SAME_SEMITONES * agrees)
    return voices.at((torch.arange(len(above_semitones)) / FRAMES).floor())


def voice_shares(
    pitches: Float[Tensor, "voices frames"], strength: Float[Tensor, "voices frames"], config: SpectrogramConfig
) -> Float[Tensor, "shares n_bands frames"]:
    """Of each band, what belongs to none, and then to each of these voices: shares that sum to 1.

    A voice has the bands around its harmonics; where those of several lie, by their strength.
    """
    if len(pitches) == 0:
        return torch.ones(1, config.n_bands, pitches.shape[-1])
    centres = band_centres_hz(config)[:, None]  # pyright: ignore[reportArgumentType], frozen is hashable
    width = centres[:, 0].diff(append=centres[-1] + 1).clamp_min(LOBE_HZ)[:, None]
    tone_hz = LOWEST_HZ * 2 ** (pitches / 12)[:, None]
    away = (centres - (centres / tone_hz).round().clamp(1, OWN_HARMONICS) * tone_hz) / width
    near, around_it = (-away.square() / 2).exp(), (-away.square() / 8).exp()
    sounding = (strength / LEAST_STRENGTH).clamp(max=1)[:, None]
    rest = (1 - (around_it * sounding).amax(0)) * strength.amax(0).clamp_min(LEAST_STRENGTH) + 1e-6
    own = near * strength[:, None] + 1e-4
    outside = ((centres < LOWEST_HZ) | (centres > HIGHEST_HZ))[None]
    weights = torch.cat([torch.where(outside[0], 1.0, rest)[None], torch.where(outside, 0.0, own)])
    return weights / weights.sum(0)


def move_voices(
    spectrogram: Float[Tensor, "*batch n_bands frames"],
    shares: Float[Tensor, "shares n_bands frames"],
    semitones: Float[Tensor, "shares frames"],
    front_end: Spectrogram,
) -> Float[Tensor, "*batch n_bands frames"]:
    """Each share of a spectrogram so much higher. Frames in which nothing moves stay as they are."""
    if len(shares) == 1:
        return transpose(spectrogram, semitones[0], front_end.config)
    shares, semitones = shares.to(spectrogram), semitones.to(spectrogram)
    bands = front_end.denormalise(spectrogram)
    moved = sum(
        (transpose(share * bands, its, front_end.config) for share, its in zip(shares, semitones, strict=True)),
        torch.zeros_like(bands),
    )
    return torch.where((semitones == 0).all(0), spectrogram, front_end.normalise(moved))


def _left_in_blocks(
    a: Float[Tensor, "steps frames"], b: Float[Tensor, "steps frames"], found: list[tuple[Pitches, Pitches]]
) -> Iterator[tuple[Float[Tensor, "more_steps block"], Float[Tensor, "more_steps block"]]]:
    """What voices leave of both, in blocks of frames, with room for half of the largest interval at either end."""
    for start in range(0, a.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        left = (_left(one[:, part], [its[place][part] for its in found]) for place, one in enumerate((a, b)))
        first, second = (functional.pad(one, (0, 0, ROOM, ROOM)) for one in left)
        yield first, second


def _best_of_intervals(
    a: Float[Tensor, "more_steps frames"], b: Float[Tensor, "more_steps frames"]
) -> Float[Tensor, "frames intervals"]:
    """How well harmonics coincide at each interval, of the pitch that does best there."""
    steps = len(a) - 2 * ROOM
    both = a.new_zeros(steps + PITCHES, a.shape[1])
    best = []
    for apart in range(-LARGEST_STEPS, LARGEST_STEPS + 1):
        in_a, in_b = (ROOM + its for its in _halves(apart))
        torch.mul(a[in_a : in_a + steps], b[in_b : in_b + steps], out=both[:steps])
        best.append(_harmonic_sums(both).amax(0))
    return torch.stack(best, dim=1)


def _at_interval(
    a: Float[Tensor, "more_steps frames"], b: Float[Tensor, "more_steps frames"], apart: Int[Tensor, " frames"]
) -> Float[Tensor, "frames pitches"]:
    """How well harmonics coincide at each pitch half way between both, at one interval a frame."""
    middle = ROOM + torch.arange(len(a) - 2 * ROOM)[:, None]
    in_a, in_b = (one.gather(0, middle + its) for one, its in zip((a, b), _halves(apart), strict=True))
    return _harmonic_sums(functional.pad(in_a * in_b, (0, 0, 0, PITCHES))).mT


def _halves(apart: Steps) -> tuple[Steps, Steps]:
    """How many steps two pitches lie above the middle between them; the same for both sounds the other way round."""
    return -(apart // 2), apart - apart // 2


def _harmonic_sums(partials: Float[Tensor, "more_steps frames"]) -> Float[Tensor, "pitches frames"]:
    """Of each pitch what there is at its harmonics; above the partials, ``PITCHES`` steps are 0."""
    sums = partials[:PITCHES].clone()
    for number in range(2, HARMONICS + 1):
        first = round(_steps_above_fundamental(number))
        its = partials[first : first + PITCHES]
        sums[: len(its)].add_(its, alpha=number**-0.5)
    return sums


def _left(partials: Float[Tensor, "steps frames"], pitches: list[Pitches]) -> Float[Tensor, "steps frames"]:
    """Roots of the partials that belong to none of these pitches."""
    roots = partials.float().sqrt()
    hz = LOWEST_HZ * 2 ** (torch.arange(len(roots)) / (12 * STEPS_A_SEMITONE))[:, None]
    reach = (hz * (2 ** (CLEARED_SEMITONES / 12) - 1)).clamp_min(CLEARED_HZ)
    for pitch in pitches:
        tone_hz = LOWEST_HZ * 2 ** (pitch / (12 * STEPS_A_SEMITONE))
        nearest = (hz / tone_hz).round().clamp(1, OWN_HARMONICS) * tone_hz
        roots = torch.where((hz - nearest).abs() <= reach, 0.0, roots)
    return roots


def _refined(
    a: Float[Tensor, "steps frames"], b: Float[Tensor, "steps frames"], first: Pitches, second: Pitches
) -> tuple[Pitches, Pitches]:
    """The pair of pitches near this one whose harmonics coincide best in all there is, between the steps."""
    for size in (1.0, 0.5, 0.25):
        pairs = [(first + up, second + its) for up, its in itertools.product((0.0, -size, size), repeat=2)]
        worth = torch.stack([_coincidence(a, b, *pair) for pair in pairs])
        worth[0] *= ENOUGH
        best = worth.argmax(0, keepdim=True)
        first, second = (torch.stack(one).gather(0, best)[0] for one in zip(*pairs, strict=True))
    return first, second


def _coincidence(
    a: Float[Tensor, "steps frames"], b: Float[Tensor, "steps frames"], first: Pitches, second: Pitches
) -> Float[Tensor, " frames"]:
    """How much there is at the harmonics of both pitches at once."""
    total = torch.zeros_like(first)
    for number in range(1, HARMONICS + 1):
        above = _steps_above_fundamental(number)
        total += number**-0.5 * (_at(a, first + above) * _at(b, second + above)).sqrt()
    return total


def _at(partials: Float[Tensor, "steps frames"], steps: Pitches) -> Float[Tensor, " frames"]:
    """Of each frame, what is at this step, or between two; beyond them is nothing."""
    last = len(partials) - 1
    left = steps.long().clamp(0, last - 1)[None]
    below, above = (partials.gather(0, one)[0].float() for one in (left, left + 1))
    return torch.lerp(below, above, (steps - left[0]).clamp(0, 1)) * ((steps >= 0) & (steps <= last))


def _of_their_own(
    pitches: Float[Tensor, "recordings voices frames"],
    strength: Float[Tensor, "voices frames"],
    above: Float[Tensor, " frames"],
    near: Float[Tensor, " frames"],
) -> Voices:
    """Voices as near as ``SAME_SEMITONES`` to the interval of the whole take that; who always does is no voice."""
    first, second = pitches
    differs = (second - first - above).abs() > near
    second = torch.where(differs, second, first + above)
    kept = (differs & (strength > LEAST_STRENGTH)).any(1)
    return Voices(torch.stack([first, second])[:, kept], strength[kept])


def _agreement(correlation: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    """0 where much doesn't move as the whole does, 1 where nearly all does."""
    return ((correlation - AGREES) / (AGREES_FULLY - AGREES)).clamp(0, 1)


def _fewer(values: Float[Tensor, " frames"], count: int) -> Float[Tensor, " fewer"]:
    return functional.avg_pool1d(values[None], FRAMES, FRAMES, ceil_mode=True)[0, :count]


def _steps_above_fundamental(number: int) -> float:
    return 12 * STEPS_A_SEMITONE * math.log2(number)
