"""Pieces of many recordings through the model together, with the same result as each alone."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audiovae.codec import Codec
from audiovae.encoding.preparation import Analysis

LENGTHS = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224)
"""Latent frames that pieces are padded to; and the longest there is."""
BATCH_LATENT_FRAMES = {"cpu": 288, "cuda": 8192}
"""Latent frames (288 are 27 s) that go through the model at once."""
BATCHES_TO_WAIT = 32
"""A batch that isn't full after so many others goes as it is, so that no recording waits for long."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the model makes of one channel of a piece, under the name that the piece was given."""

    name: Hashable
    mean: Float[Tensor, "latent_channels latent_frames"]
    logvar: Float[Tensor, "latent_channels latent_frames"]


@dataclass(eq=False)
class _Batch:
    waveforms: Float[Tensor, "batch samples"]
    since: int
    names: list[Hashable] = field(default_factory=list)
    kept: list[slice] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    result: tuple[Tensor, Tensor] | None = None
    ready: Any = None


class BatchEncoder:
    """Collects pieces of like length and sends them through spectrogram and model together.

    A batch of one length always has the same shape, filled up with silence: the same kernels then do the same sums,
    so that a piece's latents are the same bytes whatever else is in its batch, wherever it stands. On a GPU a batch
    is collected while the next one runs.
    """

    def __init__(self, codec: Codec, analysis: Analysis) -> None:
        self.codec, self.encoder = codec, codec.checkpoint.model.encoder
        longest = analysis.longest_piece
        self.lengths = [*(length for length in LENGTHS if length < longest), longest]
        self.budget = BATCH_LATENT_FRAMES[codec.device.type]
        self.waiting: dict[int, _Batch] = {}
        self.running: _Batch | None = None
        self.launched = 0

    def add(self, waveform: Float[Tensor, " samples"], keep: slice, name: Hashable) -> Iterator[Encoded]:
        """Takes one channel of a piece; gives what has been encoded meanwhile, in no particular order."""
        frames = self._latent_frames(len(waveform))
        length = next(length for length in self.lengths if length >= frames)
        batch = self.waiting.get(length)
        if batch is None:
            batch = self.waiting[length] = _Batch(self._silence(length), self.launched)
        batch.waveforms[len(batch.names), : len(waveform)] = waveform
        batch.names.append(name)
        batch.kept.append(keep)
        batch.lengths.append(frames)
        if len(batch.names) == len(batch.waveforms):
            yield from self._launch(length)
        for old in [old for old, one in self.waiting.items() if self.launched - one.since > BATCHES_TO_WAIT]:
            yield from self._launch(old)

    def finish(self) -> Iterator[Encoded]:
        """The rest."""
        for length in sorted(self.waiting):
            yield from self._launch(length)
        yield from self._collect()

    def _latent_frames(self, samples: int) -> int:
        """Of a piece, whose frames all have a whole window."""
        config = self.codec.config
        return (samples - config.spectrogram.n_fft + config.spectrogram.hop_length) // config.latent_hop_length

    def _silence(self, length: int) -> Float[Tensor, "batch samples"]:
        config, count = self.codec.config, max(1, self.budget // length)
        samples = length * config.latent_hop_length - config.spectrogram.hop_length + config.spectrogram.n_fft
        return torch.zeros(count, samples, pin_memory=self.codec.device.type == "cuda")

    def _launch(self, length: int) -> Iterator[Encoded]:
        batch = self.waiting.pop(length)
        self.launched += 1
        with torch.inference_mode(), _padding(self.encoder, batch.lengths, length):
            waveforms = batch.waveforms.to(self.codec.device, non_blocking=True)[:, None]
            posterior = self.codec.checkpoint.model.encode(self.codec.spectrogram(waveforms, center=False))
            batch.result = (
                posterior.mean.to("cpu", non_blocking=True),
                posterior.logvar.to("cpu", non_blocking=True),
            )
            if self.codec.device.type == "cuda":
                batch.ready = torch.cuda.Event()
                batch.ready.record()
        yield from self._collect()
        self.running = batch

    def _collect(self) -> Iterator[Encoded]:
        """The results of the batch before."""
        batch, self.running = self.running, None
        if batch is None or batch.result is None:
            return
        if batch.ready is not None:
            batch.ready.synchronize()
        mean, logvar = batch.result
        for place, (name, keep) in enumerate(zip(batch.names, batch.kept, strict=True)):
            yield Encoded(name, mean[place, :, keep], logvar[place, :, keep])


@contextmanager
def _padding(encoder: nn.Module, lengths: list[int], length: int) -> Iterator[None]:
    """Makes convolutions see zeros after each piece's end, as they do where a piece is alone and they pad it."""
    shortest = min(lengths)
    if shortest == length:
        yield
        return
    inside = torch.arange(shortest, length)[None] < torch.tensor([*lengths])[:, None]

    def clear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        factor = x.shape[-1] // length
        mask = inside.repeat_interleave(factor, dim=1).to(x.device, x.dtype)
        x[: len(lengths), ..., shortest * factor :] *= mask.reshape(len(lengths), *(1,) * (x.ndim - 2), -1)

    looks_around = [one for one in encoder.modules() if isinstance(one, nn.Conv1d | nn.Conv2d) and one.padding[-1]]
    hooks = [module.register_forward_pre_hook(clear) for module in looks_around]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
