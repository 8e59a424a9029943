"""Tones whose in-betweens are known: what lies half way between two is the tone of the parameters half way.

So are those of phrases of as many notes: every note of one turns into its counterpart, at the time half way; and those
of chords, whose notes sound at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.polynomial.polynomial import polyval
from torch import Tensor

SEED = 0
SECONDS = 1.0
HIGHEST_HZ = 12_000.0
PHRASE_SECONDS = 3.0
LARGEST_SHIFT_SECONDS, LEAST_NOTE_SECONDS, FADE_SECONDS = 0.15, 0.15, 0.01
"""How far from the middle a note lies in each phrase of a pair, at most; how near notes begin; how a note ends."""
CHORD_OCTAVES, LEAST_APART_SEMITONES, LARGEST_MOVE_SEMITONES = (7.2, 9.2), 2.5, 5.0
"""Where the notes of chords lie, log2 of Hz; how near they are to each other, and how far from their counterparts."""
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
        partials = 10 ** (level_db / 20) * torch.exp(1j * math.pi * number.square() / len(number))
        turning = np.exp(2j * math.pi * pitch_hz * seconds.numpy())
        sound = torch.from_numpy((turning * polyval(turning, partials.numpy())).imag)
        envelope = (seconds / 2**self.attack_octaves).clamp(max=1) * (-seconds / 2**self.decay_octaves).exp()
        return (sound * envelope)[None].float()


@dataclass(frozen=True)
class Phrase:
    """Notes one after another; each ends where the next one begins."""

    notes: tuple[Tone, ...]
    onsets_seconds: tuple[float, ...]

    def between(self, other: "Phrase", weight: float) -> "Phrase":
        """The true in-between: every note between its two, and at the time between."""
        notes = (mine.between(its, weight) for mine, its in zip(self.notes, other.notes, strict=True))
        both = zip(self.onsets_seconds, other.onsets_seconds, strict=True)
        return Phrase(tuple(notes), tuple((1 - weight) * mine + weight * its for mine, its in both))

    def waveform(self, sample_rate: int) -> Float[Tensor, "1 samples"]:
        """Its sound, ``PHRASE_SECONDS`` long."""
        sound = torch.zeros(1, round(PHRASE_SECONDS * sample_rate))
        starts = [round(onset * sample_rate) for onset in self.onsets_seconds]
        fade = torch.linspace(1, 0, round(FADE_SECONDS * sample_rate))
        for note, start, end in zip(self.notes, starts, [*starts[1:], sound.shape[1]], strict=True):
            sound[:, start:end] = note.waveform(sample_rate, samples=end - start)
            sound[:, end - len(fade) : end] *= fade
        return sound


@dataclass(frozen=True)
class Chord:
    """Notes at once."""

    notes: tuple[Tone, ...]

    def between(self, other: "Chord", weight: float) -> "Chord":
        """The true in-between: every note between its two."""
        return Chord(tuple(mine.between(its, weight) for mine, its in zip(self.notes, other.notes, strict=True)))

    def waveform(self, sample_rate: int) -> Float[Tensor, "1 samples"]:
        """Its sound, ``SECONDS`` long."""
        return torch.cat([note.waveform(sample_rate) for note in self.notes]).sum(0, keepdim=True)


def chord_pairs(count: int) -> Iterator[tuple[Chord, Chord]]:
    """Pairs of random chords of two and three notes in turn, of one instrument each, whose notes don't cross."""
    random = np.random.default_rng([SEED, 2])
    for number in range(count):
        instruments = _tone(random, 0.0), _tone(random, 0.0)
        first, last = (
            Chord(tuple(replace(instrument, pitch_octaves=float(pitch)) for pitch in pitches))
            for instrument, pitches in zip(instruments, _chord_pitches(random, notes=2 + number % 2), strict=True)
        )
        yield first, last


def _chord_pitches(random: np.random.Generator, *, notes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pitches of two chords, drawn until their notes are far enough apart."""
    most = LARGEST_MOVE_SEMITONES / 2 / 12
    while True:
        middles, halves = np.sort(random.uniform(*CHORD_OCTAVES, notes)), random.uniform(-most, most, notes)
        first, last = middles - halves, middles + halves
        if min(np.diff(first).min(), np.diff(last).min()) > LEAST_APART_SEMITONES / 12:
            return first, last


def phrase_pairs(count: int) -> Iterator[tuple[Phrase, Phrase]]:
    """Pairs of random phrases, of one instrument each; notes up to 0.3 s and five semitones from their counterparts."""
    random = np.random.default_rng(SEED)
    for _ in range(count):
        notes = int(random.integers(5, 9))
        first, last = _onsets(random, notes)
        instruments = _tone(random, 0.0), _tone(random, 0.0)
        middles, halves = random.uniform(7.7, 9.2, notes), random.uniform(-2.5, 2.5, notes) / 12
        pitches = middles - halves, middles + halves
        sounds = (
            tuple(replace(instrument, pitch_octaves=float(pitch)) for pitch in melody)
            for instrument, melody in zip(instruments, pitches, strict=True)
        )
        yield Phrase(next(sounds), first), Phrase(next(sounds), last)


def _onsets(random: np.random.Generator, notes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Onsets of two phrases, drawn until their notes are long enough."""
    while True:
        middle = np.sort(random.uniform(0.3, PHRASE_SECONDS - 0.3, notes))
        shift = random.uniform(-LARGEST_SHIFT_SECONDS, LARGEST_SHIFT_SECONDS, notes)
        first, last = middle - shift, middle + shift
        if min(np.diff(first).min(), np.diff(last).min()) > LEAST_NOTE_SECONDS:
            return tuple(map(float, first)), tuple(map(float, last))


def tone_pairs(count: int, *, same_pitch: bool) -> Iterator[tuple[Tone, Tone]]:
    """Pairs of random tones, of the same pitch or 2.5 to 10.5 semitones apart."""
    random = np.random.default_rng([SEED, same_pitch])
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
