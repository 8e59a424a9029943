"""PCA of spectrogram patches: the linear part of encoder and decoder, on which the network builds."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

SMOOTHING, SMOOTHING_BANDS = 0.7, 1.5
"""Share of an error that is heard smoothed over bands, and the standard deviation of that smoothing."""


class PrincipalComponents(nn.Module):
    """The best linear code of the patch under each latent frame, fitted in closed form and then frozen.

    A latent channel is one principal component of the patches (all bands, ``time_stride`` frames), scaled to unit
    variance. Best means the least error as it is heard: the ear, whose bands are wider, hears little of errors of
    opposite signs in neighbouring bands. So the components are those of smoothed patches, and the patches are regressed
    on them. A network that starts from this needs to learn only what is not linear, and reaches in minutes what it
    otherwise needs hours for. Before ``fit`` all is zero, and the network stands alone.
    """

    mean: Tensor
    analysis: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, n_bands: int, time_stride: int, latent_channels: int) -> None:
        super().__init__()
        self.patch = (n_bands, time_stride)
        self.register_buffer("mean", torch.zeros(n_bands * time_stride))
        self.register_buffer("analysis", torch.zeros(latent_channels, n_bands * time_stride))
        self.register_buffer("components", torch.zeros(latent_channels, n_bands * time_stride))
        self.register_buffer("scale", torch.ones(latent_channels))

    def fit(self, covariance: Float[Tensor, "size size"], mean: Float[Tensor, " size"]) -> None:
        """Takes over the leading eigenvectors of the smoothed patches' covariance (Pearson, 1901; Hotelling, 1933)."""
        covariance, smoothing = covariance.double(), _smoothing(*self.patch).to(covariance.device)
        variances, vectors = torch.linalg.eigh(smoothing @ covariance @ smoothing.mT)
        kept = len(self.scale)
        variances = variances[-kept:].flip(0)
        analysis = vectors[:, -kept:].flip(1).mT @ smoothing
        # An eigenvector's sign is arbitrary: this one makes a refit give the same latents.
        analysis = analysis * torch.sign(analysis.gather(1, analysis.abs().argmax(1, keepdim=True)))
        self.mean.copy_(mean)
        self.analysis.copy_(analysis)
        # Coordinates are uncorrelated: each is regressed on alone, and leaving out the last changes no other.
        self.components.copy_(analysis @ covariance / variances.clamp_min(1e-9)[:, None])
        self.scale.copy_(variances.clamp_min(1e-6).sqrt())

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
            return ((self.patches(spectrogram.float()) - self.mean) @ self.analysis.mT / self.scale).mT

    def decode(
        self, latents: Float[Tensor, "batch latent_channels latent_frames"]
    ) -> Float[Tensor, "batch 1 n_bands frames"]:
        """The patches with these coordinates, side by side."""
        with torch.autocast(latents.device.type, enabled=False):
            patches = (latents.float().mT * self.scale) @ self.components + self.mean
        return patches.unflatten(2, self.patch).transpose(1, 2).flatten(2)[:, None]


def heard_smoothing(n_bands: int, share: float) -> Float[Tensor, "n_bands n_bands"]:
    """What is heard of errors in bands, as a matrix: ``share`` of each is smoothed over neighbouring bands."""
    band = torch.arange(n_bands, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((band - band[:, None]) / SMOOTHING_BANDS) ** 2)
    return share * kernel / kernel.sum(1, keepdim=True) + (1 - share) * torch.eye(n_bands)


def _smoothing(n_bands: int, time_stride: int) -> Float[Tensor, "size size"]:
    """The same of patches."""
    return torch.kron(heard_smoothing(n_bands, SMOOTHING), torch.eye(time_stride, dtype=torch.float64))
