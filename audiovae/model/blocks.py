"""The parts that encoder and decoder are built of. None of them looks along time further than its kernel."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

RESIDUAL_START = 0.1
"""Scales the first weights of a residual branch's last convolution: a deep stack starts near the identity."""


class ChannelNorm(nn.Module):
    """Root-mean-square norm over channels (Zhang & Sennrich, 2019), separately at each place.

    Statistics over time would make a chunk's result depend on the rest of the file.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "batch channels *place"]) -> Float[Tensor, "batch channels *place"]:
        return functional.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight.to(x.dtype), eps=1e-6).movedim(
            -1, 1
        )


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), with kernels of 3 (He et al., 2016, pre-activation).

    It has no norm: on an image that costs as much time as the convolutions, and a branch that starts near
    zero (Zhang et al., 2019, Fixup) trains as well.
    """

    def __init__(self, channels: int, *, dimensions: int) -> None:
        super().__init__()
        conv = nn.Conv2d if dimensions == 2 else nn.Conv1d
        self.conv1 = conv(channels, channels, 3, padding=1)
        self.conv2 = conv(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(RESIDUAL_START)

    def forward(self, x: Float[Tensor, "batch channels *place"]) -> Float[Tensor, "batch channels *place"]:
        return x + self.conv2(functional.silu(self.conv1(functional.silu(x))))


class Unshuffle(nn.Module):
    """Makes ``bands x frames`` patches into channels: a strided convolution without overlap, as one matrix product."""

    def __init__(self, channels_in: int, channels_out: int, *, bands: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, (bands, frames), stride=(bands, frames))

    def forward(
        self, x: Float[Tensor, "batch channels_in bands frames"]
    ) -> Float[Tensor, "batch channels_out bands_out frames_out"]:
        return self.conv(x)


class Shuffle(nn.Module):
    """The way back: each place becomes ``bands x frames`` places (Shi et al., 2016, sub-pixel convolution)."""

    def __init__(self, channels_in: int, channels_out: int, *, bands: int, frames: int) -> None:
        super().__init__()
        self.patch = (bands, frames)
        self.conv = nn.Conv2d(channels_in, channels_out * bands * frames, 1)

    def forward(
        self, x: Float[Tensor, "batch channels_in bands frames"]
    ) -> Float[Tensor, "batch channels_out bands_out frames_out"]:
        batch, _, bands, frames = x.shape
        patch_bands, patch_frames = self.patch
        x = self.conv(x).reshape(batch, -1, patch_bands, patch_frames, bands, frames)
        return x.permute(0, 1, 4, 2, 5, 3).reshape(batch, x.shape[1], bands * patch_bands, frames * patch_frames)
