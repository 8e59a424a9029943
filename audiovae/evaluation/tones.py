"""Tones whose in-betweens are known: what lies half way between two is the tone of the parameters half way."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SECONDS = 1.0
HIGHEST_HZ = 12_000.0
FORMANT_OCTAVES, FORMANT_DB = 0.6, 14.0
"""Width and height of the formant."""


@dataclass(frozen=True)
class Tone:
    """A harmonic tone with a spectral slope, a formant and an envelope, each of which the ear can follow."""

    pitch_octaves: float
    """Of the fundamental, over 1 Hz."""
    slope_db: float
    """Change in level for each octave."""
    formant_octaves: float
    """Middle of the formant, over 1 Hz."""
    even_db: float
    """Level of the even harmonics beside the odd ones."""
    attack_octaves: float
    """Log2 of the attack in seconds."""
    decay_octaves: float
    """Log2 of the seconds in which it decays by 1/e."""

    def between(self, other: "Tone", weight: float) -> "Tone":
        """The true in-between: every parameter on the line, pitch and times by ratios."""
        names = [field.name for field in fields(self)]
        return Tone(*((1 - weight) * getattr(self, name) + weight * getattr(other, name) for name in names))

    def waveform(self, sample_rate: int, *, samples: int | None = None) -> Float[Tensor, "1 samples"]:
        """Its sound, ``SECONDS`` long unless the samples are given."""
        count = round(SECONDS * sample_rate) if samples is None else samples
        seconds = torch.arange(count, dtype=torch.float64) / sample_rate
        pitch_hz = 2**self.pitch_octaves
        number = torch.arange(1, int(min(HIGHEST_HZ, 0.45 * sample_rate) / pitch_hz) + 1, dtype=torch.float64)
        away = ((number * pitch_hz).log2() - self.formant_octaves) / FORMANT_OCTAVES
        level_db = self.slope_db * number.log2() + FORMANT_DB * (-away.square()).exp()
        level_db = level_db + torch.where(number % 2 == 0, self.even_db, 0.0)
        # Phases that grow with the square keep the peak low (Schroeder, 1970).
        phases = 2 * math.pi * (pitch_hz * number[:, None] * seconds + number[:, None].square() / (2 * len(number)))
        sound = (10 ** (level_db / 20)) @ phases.sin()
        envelope = (seconds / 2**self.attack_octaves).clamp(max=1) * (-seconds / 2**self.decay_octaves).exp()
        return (sound * envelope)[None].float()


def tone_pairs(count: int, *, same_pitch: bool, seed: int = 0) -> Iterator[tuple[Tone, Tone]]:
    """Pairs of random tones, of the same pitch or 2.5 to 10.5 semitones apart."""
    random = np.random.default_rng([seed, same_pitch])
    for _ in range(count):
        middle, interval = random.uniform(7.7, 9.2), random.choice([-1, 1]) * random.uniform(2.5, 10.5) / 12
        half = 0.0 if same_pitch else interval / 2
        yield _tone(random, middle - half), _tone(random, middle + half)


def _tone(random: np.random.Generator, pitch_octaves: float) -> Tone:
    return Tone(
        pitch_octaves=float(pitch_octaves),
        slope_db=random.uniform(-12, -4),
        formant_octaves=random.uniform(9, 11.5),
        even_db=random.uniform(-18, 0),
        attack_octaves=random.uniform(-7, -3),
        decay_octaves=random.uniform(-2, 1),
    )


THIRD_TONE = Tone(
    pitch_octaves=8.5, slope_db=-3.0, formant_octaves=11.0, even_db=0.0, attack_octaves=-6.0, decay_octaves=1.0
)
"""Has nothing to do with any pair."""
