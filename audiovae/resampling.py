"""Other sample rates, for recordings that arrive in blocks (soxr), and blocks of another length."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def resampled_length(samples: int, old_rate: int, new_rate: int) -> int:
    """Samples that `samples` become at another rate: ceil(samples * new_rate / old_rate), never 0 for a sound."""
    return -(-samples * new_rate // old_rate)


class Resampler:
    """soxr's stream, made to give exactly `resampled_length` samples; equal rates pass untouched."""

    def __init__(self, old_rate: int, new_rate: int, *, channels: int) -> None:
        self._old, self._new, self._channels = old_rate, new_rate, channels
        self._soxr = soxr.ResampleStream(old_rate, new_rate, channels, dtype="float32", quality="HQ")
        self._taken, self._given = 0, 0

    def push(self, block: Float[Tensor, "channels old"], *, last: bool = False) -> Float[Tensor, "channels new"]:
        """Takes the next samples, gives those that are ready."""
        self._taken += block.shape[1]
        if self._old != self._new:
            resampled = self._soxr.resample_chunk(block.T.numpy(), last=last)
            block = torch.from_numpy(np.ascontiguousarray(resampled.T))
        self._given += block.shape[1]
        return block

    def finish(self) -> Float[Tensor, "channels new"]:
        """The rest. soxr alone rounds the length down: silence after the end lets it complete the last sample."""
        missing = resampled_length(self._taken, self._old, self._new) - self._given
        return self.push(torch.zeros(self._channels, self._old // self._new + 2), last=True)[:, :missing]

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """All blocks of a recording, resampled, in pieces of any length."""
        for block in blocks:
            yield self.push(block)
        yield self.finish()


def regroup(pieces: Iterable[Tensor], block_samples: int) -> Iterator[Tensor]:
    """Blocks of `block_samples` from pieces of any length; only the last may be shorter."""
    held, count = [], 0
    for piece in pieces:
        while count + piece.shape[1] >= block_samples:
            head, piece = piece.tensor_split([block_samples - count], dim=1)
            yield torch.cat([*held, head], dim=1)
            held, count = [], 0
        held.append(piece)
        count += piece.shape[1]
    if count:
        yield torch.cat(held, dim=1)


def exactly(pieces: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """The pieces of a recording, cut or padded with zeros at the end to an exact length."""
    given, channels = 0, 0
    for piece in pieces:
        channels = piece.shape[0]
        piece = piece[:, : samples - given]
        given += piece.shape[1]
        if piece.shape[1]:
            yield piece
    if given < samples:
        yield functional.pad(torch.zeros(channels, 0), (0, samples - given))
