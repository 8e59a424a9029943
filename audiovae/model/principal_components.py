"""PCA of spectrogram patches: the linear part of encoder and decoder, on which the network builds."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PrincipalComponents(nn.Module):
    """The best linear code of the patch under each latent frame, fitted in closed form and then frozen.

    A latent channel is one principal component of the patches (all bands, ``time_stride`` frames), scaled to unit
    variance. A network that starts from it needs to learn only what is not linear, and reaches in minutes what it
    otherwise needs hours for. Before ``fit`` all is zero, and the network stands alone.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, n_bands: int, time_stride: int, latent_channels: int) -> None:
        super().__init__()
        self.patch = (n_bands, time_stride)
        self.register_buffer("mean", torch.zeros(n_bands * time_stride))
        self.register_buffer("components", torch.zeros(latent_channels, n_bands * time_stride))
        self.register_buffer("scale", torch.ones(latent_channels))

    def fit(self, covariance: Float[Tensor, "size size"], mean: Float[Tensor, " size"]) -> None:
        """Takes over the leading eigenvectors of the patches' covariance (Pearson, 1901; Hotelling, 1933)."""
        variances, vectors = torch.linalg.eigh(covariance.double())
        kept = len(self.scale)
        leading = vectors[:, -kept:].flip(1).mT
        # An eigenvector's sign is arbitrary: this one makes a refit give the same latents.
        leading = leading * torch.sign(leading.gather(1, leading.abs().argmax(1, keepdim=True)))
        self.mean.copy_(mean)
        self.components.copy_(leading)
        self.scale.copy_(variances[-kept:].flip(0).clamp_min(1e-6).sqrt())

    def patches(
        self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]
    ) -> Float[Tensor, "batch latent_frames size"]:
        """The patch under each latent frame, as one vector."""
        return spectrogram[:, 0].unflatten(-1, (-1, self.patch[1])).transpose(1, 2).flatten(2)

    def encode(
        self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]
    ) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Coordinates of each patch on the components."""
        # Exact also under mixed precision: it is a thousandth of the work.
        with torch.autocast(spectrogram.device.type, enabled=False):
            return ((self.patches(spectrogram.float()) - self.mean) @ self.components.mT / self.scale).mT

    def decode(
        self, latents: Float[Tensor, "batch latent_channels latent_frames"]
    ) -> Float[Tensor, "batch 1 n_bands frames"]:
        """The patches with these coordinates, side by side."""
        with torch.autocast(latents.device.type, enabled=False):
            patches = (latents.float().mT * self.scale) @ self.components + self.mean
        return patches.unflatten(2, self.patch).transpose(1, 2).flatten(2)[:, None]
