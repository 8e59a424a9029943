"""A recording in pieces that the model can be given one by one: bounded memory, and the result of the whole."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.audio import Audio, AudioFile
from audiovae.config import Config
from audiovae.latents import count_latent_frames
from audiovae.level import LevelMeter

BLOCK_LATENT_FRAMES = 512
"""Latent frames (24 s) of audio that are read at a time."""


def chunks(total: int, size: int, context: int) -> Iterator[tuple[int, int, slice]]:
    """Pieces of ``total`` frames with context on either side, and which of a piece's frames are its own.

    first      start          end       last
      |  context |    size     | context |
                  ============ these are kept
    """
    for start in range(0, total, size):
        end = min(start + size, total)
        first, last = max(0, start - context), min(total, end + context)
        yield first, last, slice(start - first, end - first)


@dataclass(frozen=True, eq=False)
class Measured:
    """What must be known of a whole recording before its first piece is analysed."""

    level_db: float
    """dBFS; -inf for silence."""
    offset: Float[Tensor, " channels"]
    """The constant that its samples lie around: to the model, a loud and very low tone."""


def measure(recording: Audio | AudioFile, config: Config) -> Measured:
    """Reads a recording from end to end. What lies above the model's frequencies doesn't count."""
    rate = min(recording.sample_rate, config.spectrogram.sample_rate)
    meter = LevelMeter(rate)
    for block in recording.blocks(rate, BLOCK_LATENT_FRAMES * config.latent_hop_length):
        meter.add(block)
    return Measured(meter.level_db, meter.offset.float())


def analysis_chunks(
    recording: Audio | AudioFile, measured: Measured, config: Config, *, size: int, context: int
) -> Iterator[tuple[Float[Tensor, "channels samples"], slice]]:
    """Pieces of waveform with all that their latent frames depend on, and which latent frames to keep of each.

    A piece has ``size`` latent frames and ``context`` more on either side, less at the recording's ends. It is at
    the model's rate and level, without an offset; silence stays as it is.
    """
    hop, half_window = config.latent_hop_length, config.spectrogram.n_fft // 2
    level_db, offset = measured.level_db, measured.offset[:, None]
    gain = 10 ** ((config.spectrogram.level_db - level_db) / 20) if level_db > -math.inf else 0.0
    blocks = recording.blocks(config.spectrogram.sample_rate, BLOCK_LATENT_FRAMES * hop)
    blocks = (block - offset for block in blocks) if offset.any() else blocks
    window = _SlidingWindow(blocks, recording.channels)
    total = count_latent_frames(recording.samples, recording.sample_rate, config)
    for first, last, keep in chunks(total, size, context):
        end = last * hop - config.spectrogram.hop_length + half_window
        yield window.take(first * hop - half_window, end).mul_(gain), keep


class _SlidingWindow:
    """Reads forward through a stream of blocks; outside the recording there are zeros."""

    def __init__(self, blocks: Iterator[Tensor], channels: int) -> None:
        self.blocks, self.buffer, self.start = blocks, torch.zeros(channels, 0), 0

    def take(self, first: int, last: int) -> Float[Tensor, "channels samples"]:
        """A copy of samples ``first`` to ``last`` (excluded); ``first`` never goes back."""
        self.buffer = self.buffer[:, max(0, first - self.start) :]
        self.start = max(self.start, first)
        pieces, end = [self.buffer] if self.buffer.shape[1] else [], self.start + self.buffer.shape[1]
        while end < last and (block := next(self.blocks, None)) is not None:
            pieces.append(block)
            end += block.shape[1]
        if pieces:
            self.buffer = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        inside = self.buffer[:, : last - self.start]
        left = max(0, -first) if self.start == 0 else 0
        return functional.pad(inside, (left, last - first - left - inside.shape[1]))
