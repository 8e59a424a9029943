"""Pieces of many recordings through the model together, with the same result as each alone."""

import copy
import threading
from collections import deque
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audiovae.codec import Codec
from audiovae.encoding.preparation import Analysis
from audiovae.model.vae import VAE

LENGTHS = {
    "cpu": (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 480),
    "cuda": (8, 16, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 448),
}
"""Latent frames that pieces are padded to; and the longest there is. Padding costs a CPU more than another length."""
BATCH_LATENT_FRAMES = {"cpu": 576, "cuda": 16384}
"""Latent frames (576 are 27 s) that go through the model at once."""
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


@dataclass(frozen=True, eq=False)
class _Result:
    mean: Float[Tensor, "batch latent_channels latent_frames"]
    logvar: Float[Tensor, "batch latent_channels latent_frames"]
    ready: Any = None
    """An event on the GPU, before which the numbers aren't there."""


class BatchEncoder:
    """Collects pieces of like length and sends them through spectrogram and model together.

    A batch of one length always has the same shape, filled up with silence: the same kernels then do the same sums,
    so that a piece's latents are the same bytes whatever else is in its batch, wherever it stands.

    On a CPU as many batches run at once as torch has threads, each in one thread: a batch shared by two threads takes
    each of them nearly as long as one alone. On a GPU a batch is collected while the next one runs. While the ``with``
    block lasts, torch has one thread for everything else: where processes that decode have all cores, several would
    wait for each other at every small sum.
    """

    def __init__(self, codec: Codec, analysis: Analysis) -> None:
        self.codec = codec
        longest = analysis.longest_piece
        self.lengths = [*(length for length in LENGTHS[codec.device.type] if length < longest), longest]
        self.budget = BATCH_LATENT_FRAMES[codec.device.type]
        self.waiting: dict[int, _Batch] = {}
        self.running: deque[tuple[_Batch, Future[_Result]]] = deque()
        self.launched = 0

    def __enter__(self) -> "BatchEncoder":
        self.threads = torch.get_num_threads()
        on_cpu = self.codec.device.type == "cpu"
        self.lanes: _Lanes | _Stream = _Lanes(self.codec, self.threads) if on_cpu else _Stream(self.codec)
        torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.lanes.close()
        torch.set_num_threads(self.threads)

    def add(self, waveform: Float[Tensor, " samples"], keep: slice, name: Hashable) -> Iterator[Encoded]:
        """Takes one channel of a piece; gives what has been encoded meanwhile, in no particular order."""
        frames = self._latent_frames(len(waveform))
        length = next(length for length in self.lengths if length >= frames)
        batch = self.waiting.get(length)
        if batch is None:
            batch = self.waiting[length] = _Batch(self._room(length), self.launched)
        place = batch.waveforms[len(batch.names)]
        place[: len(waveform)], place[len(waveform) :] = waveform, 0
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
        while self.running:
            yield from self._collect()

    def _latent_frames(self, samples: int) -> int:
        """Of a piece, whose frames all have a whole window."""
        config = self.codec.config
        return (samples - config.spectrogram.n_fft + config.spectrogram.hop_length) // config.latent_hop_length

    def _room(self, length: int) -> Float[Tensor, "batch samples"]:
        config, count = self.codec.config, max(1, self.budget // length)
        samples = length * config.latent_hop_length - config.spectrogram.hop_length + config.spectrogram.n_fft
        return torch.empty(count, samples, pin_memory=self.codec.device.type == "cuda")

    def _launch(self, length: int) -> Iterator[Encoded]:
        batch = self.waiting.pop(length)
        batch.waveforms[len(batch.names) :] = 0
        self.launched += 1
        self.running.append((batch, self.lanes.start(batch.waveforms, batch.lengths, length)))
        while len(self.running) > self.lanes.ahead:
            yield from self._collect()

    def _collect(self) -> Iterator[Encoded]:
        """The results of the oldest batch that runs."""
        batch, running = self.running.popleft()
        result = running.result()
        if result.ready is not None:
            result.ready.synchronize()
        for place, (name, keep) in enumerate(zip(batch.names, batch.kept, strict=True)):
            yield Encoded(name, result.mean[place, :, keep], result.logvar[place, :, keep])


class _Lanes:
    """Batches on the CPU, one in each thread."""

    def __init__(self, codec: Codec, threads: int) -> None:
        self.codec, self.own = codec, threading.local()
        self.ahead = 2 * threads
        """Batches that may be unfinished: no thread waits for the one that collects."""
        self.threads = ThreadPoolExecutor(threads, "audiovae-encoding", initializer=self._begin)

    def start(self, waveforms: Tensor, lengths: list[int], length: int) -> Future[_Result]:
        """Encodes padded pieces of these lengths."""
        return self.threads.submit(self._run, waveforms, lengths, length)

    def close(self) -> None:
        """Ends the threads; what has not begun is dropped."""
        self.threads.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        torch.set_num_threads(1)
        self.own.model = _with_own_hooks(self.codec.checkpoint.model)

    def _run(self, waveforms: Tensor, lengths: list[int], length: int) -> _Result:
        return _encode(self.codec, self.own.model, waveforms, lengths, length)


class _Stream:
    """Batches on the GPU, one after the other; the CPU doesn't wait for them."""

    ahead = 1

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def start(self, waveforms: Tensor, lengths: list[int], length: int) -> Future[_Result]:
        """Encodes padded pieces of these lengths."""
        result: Future[_Result] = Future()
        result.set_result(_encode(self.codec, self.codec.checkpoint.model, waveforms, lengths, length))
        return result

    def close(self) -> None:
        """Nothing is held."""


def _with_own_hooks(model: VAE) -> VAE:
    """The same weights in modules of their own, as a batch's padding is a hook of the modules."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _encode(codec: Codec, model: VAE, waveforms: Tensor, lengths: list[int], length: int) -> _Result:
    with torch.inference_mode(), _padding(model.encoder, lengths, length, codec.device):
        moved = waveforms.to(codec.device, non_blocking=True)[:, None]
        posterior = model.encode(codec.spectrogram(moved, center=False))
        mean, logvar = (one.to("cpu", non_blocking=True) for one in (posterior.mean, posterior.logvar))
        if codec.device.type != "cuda":
            return _Result(mean, logvar)
        ready = torch.cuda.Event()
        ready.record()
        return _Result(mean, logvar, ready)


@contextmanager
def _padding(encoder: nn.Module, lengths: list[int], length: int, device: torch.device) -> Iterator[None]:
    """Makes convolutions see zeros after each piece's end, as they do where a piece is alone and they pad it."""
    shortest = min(lengths)
    if shortest == length:
        yield
        return
    inside = (torch.arange(shortest, length)[None] < torch.tensor([*lengths])[:, None]).to(device)

    def clear(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        factor = x.shape[-1] // length
        mask = inside.repeat_interleave(factor, dim=1).to(x.dtype)
        x[: len(lengths), ..., shortest * factor :] *= mask.reshape(len(lengths), *(1,) * (x.ndim - 2), -1)

    looks_around = [one for one in encoder.modules() if isinstance(one, nn.Conv1d | nn.Conv2d) and one.padding[-1]]
    hooks = [module.register_forward_pre_hook(clear) for module in looks_around]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
