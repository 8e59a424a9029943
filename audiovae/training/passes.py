"""Forward and backward pass of a training step: what is wrapped for several GPUs, and what is recorded on one."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from audiovae.model.vae import VAE

WARM_UP = 3
"""Passes before the recording, in which libraries choose their kernels and allocate what they keep."""
Loss = TypeVar("Loss")


class AutoencodingStep(nn.Module):
    """Spectrogram to reconstruction and posterior in one call, which is what data-parallel wrapping needs."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, target: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns reconstruction, mean and logvar."""
        posterior = self.vae.encode(target)
        return self.vae.decode(posterior.with_noise(noise)), posterior.mean, posterior.logvar


class RecordedPass(Generic[Loss]):
    """A pass recorded as one CUDA graph, and replayed for every batch; all batches must have one size.

    A step is hundreds of small kernels, which a GPU works off sooner than Python can launch them one by one. All that
    changes from step to step must be a tensor, since the graph repeats what was done to the same places in memory
    (NVIDIA, "CUDA graphs"; "whole-network capture" in torch's notes on them). The next call overwrites its losses.
    """

    def __init__(self, model: nn.Module, eager: Callable[..., Loss]) -> None:
        """``eager`` takes tensors, returns losses, and leaves the gradients of all of the model's parameters."""
        self.model, self.eager = model, eager
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self.losses: Loss

    def __call__(self, *inputs: Tensor) -> Loss:
        if self.graph is None:
            self.graph = self._record(inputs)
        for place, given in zip(self.inputs, inputs, strict=True):
            assert place.shape == given.shape, "a graph is of one shape"
            place.copy_(given, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.losses

    def _record(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self.inputs = tuple(given.clone() for given in inputs)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                self.eager(*self.inputs)
                self.model.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Of this thread only: the loader's may pin memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.losses = self.eager(*self.inputs)
        self.gradients = [(parameter, parameter.grad) for parameter in self.model.parameters()]
        return graph
