"""Voices: tones that sound at once, in chords and over basses, each of which has its own interval to another sound.

One interval moves a whole spectrum: it can bring a tone to another, but only one note of a chord to its counterpart.
So each voice has its share of the bands, which moves by an interval of its own, and what belongs to none moves by that
of the whole. ``voice_match`` finds them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.interval import HIGHEST_HZ, LOWEST_HZ
from audiovae.spectrogram import Spectrogram
from audiovae.transposition import transpose

OWN_HARMONICS = 24
"""Harmonics that belong to a pitch."""
LOBE_HZ = 25.0
"""How far a partial reaches into the bands: deviation of a Gaussian."""
LEAST_STRENGTH = 0.1
"""Of the strongest voice: what is less is none."""


@dataclass(frozen=True, eq=False)
class Voices:
    """Which pitches belong together in two sounds, and how strong they are; empty where one interval is enough."""

    pitches: Float[Tensor, "recordings voices frames"]
    """In semitones above ``LOWEST_HZ``, or below."""
    strength: Float[Tensor, "voices frames"]
    """Relative to what the strongest one has in the seconds around; 0 where a voice isn't there."""

    @classmethod
    def none(cls, recordings: int, frames: int) -> "Voices":
        """Everything moves by one interval."""
        return cls(torch.zeros(recordings, 0, frames), torch.zeros(0, frames))

    def at(self, places: Float[Tensor, " places"]) -> "Voices":
        """The same at other frames. Between one note and the next there is none, so the nearest frame is taken."""
        nearest = places.round().long().clamp(0, self.strength.shape[-1] - 1)
        return Voices(self.pitches[..., nearest], self.strength[..., nearest])


def voice_shares(
    pitches: Float[Tensor, "voices frames"],
    strength: Float[Tensor, "voices frames"],
    centres_hz: Float[Tensor, " n_bands"],
) -> Float[Tensor, "shares n_bands frames"]:
    """For each band, the share that belongs to no voice, and then that of each voice; they sum to 1.

    A voice has the bands around its harmonics; bands of several voices are divided by their strength.
    """
    if len(pitches) == 0:
        return torch.ones(1, len(centres_hz), pitches.shape[-1])
    centres = centres_hz[:, None]
    width = centres_hz.diff(append=centres_hz[-1:] + 1).clamp_min(LOBE_HZ)[:, None]
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
    """A spectrogram with each share transposed by its own interval. Frames in which nothing moves stay as they are."""
    config = front_end.config
    if len(shares) == 1:
        return transpose(spectrogram, semitones[0], config)
    shares, semitones = shares.to(spectrogram), semitones.to(spectrogram)
    channels = spectrogram.reshape(-1, *spectrogram.shape[-2:])
    # Each share moves along with the sound that it is a share of.
    higher = [
        transpose(torch.cat([share[None], channels]), interval, config)
        for share, interval in zip(shares, semitones, strict=True)
    ]
    amplitudes = [front_end.denormalise(one[1:]) for one in higher]
    mixed = torch.stack([one[0] * amplitude for one, amplitude in zip(higher, amplitudes, strict=True)]).sum(0)
    # Amplitudes can't hold spectrogram values below silence, so only the change that voices make is taken from them:
    # where all move alike, the result is that of one transposition.
    moved = higher[0][1:] + (front_end.normalise(mixed) - front_end.normalise(amplitudes[0]))
    return torch.where((semitones == 0).all(0), spectrogram, moved.reshape(spectrogram.shape))
