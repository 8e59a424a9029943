"""Random segments of decoded audio, changed in gain and pitch, and the spectrograms that a step learns from."""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiovae.config import Config
from audiovae.interrupts import children_deaf, interrupts_held
from audiovae.spectrogram import Spectrogram, hop_length_at
from audiovae.training.data import Cache, segment_samples
from audiovae.training.decoded import drawing_lengths

FULL_SCALE = 32767
FAST_PRIMES = (2, 3, 5)
"""Factors of the window lengths that a pitch is chosen from: transforms of such lengths are fast."""


class Segment(NamedTuple):
    """Audio as it was decoded, and how it is to be heard. Of several segments heard at one pitch, all at once."""

    audio: Int16[Tensor, "*segments samples"]
    gain: Float[Tensor, "*segments"]
    n_fft: int
    """Length of the window that it is analysed with: a longer one than the model's makes it sound higher."""

    @property
    def waveform(self) -> Float[Tensor, "*segments samples"]:
        """The audio at its gain, and at the pitch that it has."""
        return self.audio.float() / FULL_SCALE * self.gain[..., None]

    def to(self, device: torch.device) -> "Segment":
        """The same on a device."""
        return self._replace(
            audio=self.audio.to(device, non_blocking=True), gain=self.gain.to(device, non_blocking=True)
        )


class Segments(Dataset[Segment]):
    """Random segments of a cache; segment ``i`` depends on the seed and ``i`` alone, never on what came before."""

    def __init__(
        self, cache: Cache, split: str, config: Config, *, augment: bool, latent_frames: int | None = None
    ) -> None:
        self.sources, self.audio = cache.split(split), cache.audio
        self.samples = segment_samples(config, latent_frames)
        self.spectrogram, self.data, self.augment = config.spectrogram, config.data, augment
        self.seed = config.training.seed
        self.ends = np.cumsum(drawing_lengths(self.sources, config.data.shares))

    def __getitem__(self, index: int) -> Segment:
        random = np.random.default_rng([self.seed, index])
        # Long files are drawn more often: every second of a folder's audio is equally likely.
        source = self.sources[int(np.searchsorted(self.ends, random.integers(self.ends[-1]), side="right"))]
        n_fft, gain_db = self._augmentation(random) if self.augment else (self.spectrogram.n_fft, 0.0)
        if self.samples_at(n_fft) > source.samples:
            n_fft = self.spectrogram.n_fft
        samples = self.samples_at(n_fft)
        start = source.offset + int(random.integers(source.samples - samples + 1))
        audio = torch.from_numpy(_memory_map(self.audio)[start : start + samples].copy())
        gain = 10 ** ((self.spectrogram.level_db - source.level_db + gain_db) / 20)
        return Segment(audio, torch.tensor(gain, dtype=torch.float32), n_fft)

    def samples_at(self, n_fft: int) -> int:
        """Length of a segment: always so many frames, but with longer windows they are further apart."""
        frames = 1 + (self.samples - self.spectrogram.n_fft) // self.spectrogram.hop_length
        return (frames - 1) * hop_length_at(n_fft, self.spectrogram) + n_fft

    def _augmentation(self, random: np.random.Generator) -> tuple[int, float]:
        """Length of the window, and gain in dB."""
        shifted = random.random() < self.data.pitch_share
        lengths = window_lengths(self.spectrogram.n_fft, self.data.pitch_semitones)
        n_fft = lengths[random.integers(len(lengths))] if shifted else self.spectrogram.n_fft
        return n_fft, random.uniform(-1, 1) * self.data.gain_db


@cache
def window_lengths(n_fft: int, semitones: float) -> tuple[int, ...]:
    """The usual length, and those, even and with fast transforms, that make sounds up to so much lower or higher."""
    reach = 2 ** (semitones / 12)
    around = range(2, int(n_fft * reach) + 1, 2)
    return tuple(one for one in around if one == n_fft or (one * reach >= n_fft and _is_fast(one)))


def _is_fast(length: int) -> bool:
    for prime in FAST_PRIMES:
        while length % prime == 0:
            length //= prime
    return length == 1


@lru_cache(maxsize=2)
def _memory_map(audio: Path) -> np.memmap:
    """Opened once in each process: as part of a data set, all of it would be copied to a spawned worker."""
    return np.memmap(audio, dtype="<i2", mode="r")


def by_pitch(segments: Sequence[Segment]) -> list[Segment]:
    """The segments of a batch, those with equal windows joined."""
    alike: defaultdict[int, list[Segment]] = defaultdict(list)
    for segment in segments:
        alike[segment.n_fft].append(segment)
    return [
        Segment(torch.stack([one.audio for one in same]), torch.stack([one.gain for one in same]), n_fft)
        for n_fft, same in sorted(alike.items())
    ]


def loaded(loader: DataLoader[Segment]) -> Generator[list[Segment], None, None]:
    """The batches of ``by_pitch``.

    Only the parent answers interrupts: workers never see them, and while workers are ended they are held back, since
    one that came then would leave a traceback.
    """
    with children_deaf():
        batches = iter(loader)
    try:
        yield from batches
    finally:
        with interrupts_held():
            del batches


def spectrograms(batch: Sequence[Segment], spectrogram: Spectrogram) -> Float[Tensor, "batch 1 n_bands frames"]:
    """A batch as it is heard, in the order of ``by_pitch``."""
    device = spectrogram.window.device
    return torch.cat([spectrogram.at_pitch(one.to(device).waveform, one.n_fft) for one in batch])[:, None]


class StepBatches(Sampler[list[int]]):
    """Indices of every step's batch from ``first_step`` on: a pure function of step and rank, so that a run resumes."""

    def __init__(self, first_step: int, steps: int, *, batch_size: int, rank: int, world_size: int) -> None:
        self.first_step, self.steps = first_step, steps
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        return max(0, self.steps - self.first_step)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.steps):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
