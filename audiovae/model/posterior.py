"""q(z given x): the distribution over latents that the encoder returns."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LOGVAR_RANGE = (-12.0, 6.0)
"""Keeps exp(logvar) in half precision's range; standard deviations of 0.0025 to 20."""
ACTIVE_VARIANCE = 0.01
"""A channel is active if its mean varies by more than this over the data (Burda et al., 2016)."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over latents (Kingma & Welling, 2014, arXiv 1312.6114)."""

    mean: Float[Tensor, "batch latent_channels latent_frames"]
    logvar: Float[Tensor, "batch latent_channels latent_frames"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Draws latents."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.with_noise(noise)

    def with_noise(
        self, noise: Float[Tensor, "batch latent_channels latent_frames"]
    ) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Latents of standard normal noise, by the reparameterisation z = mean + std * noise."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """The most likely latents: the mean."""
        return self.mean

    def kl(self) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """KL divergence from N(0, 1), in nats, of each latent value; sum over channels for a frame's."""
        return gaussian_kl(self.mean, self.logvar)


def gaussian_kl(mean: Float[Tensor, "*shape"], logvar: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, element by element."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)


def discrete_kl(p: Float[Tensor, "outcomes"], q: Float[Tensor, "outcomes"]) -> Float[Tensor, ""]:
    """KL(p || q) = sum p ln(p / q) in nats, of two distributions over the same outcomes.

    The lecture's worked example; the Gaussian one is its continuous counterpart. An outcome of probability
    zero under p adds nothing; one that only q excludes makes it infinite.
    """
    return torch.where(p > 0, p * (p.log() - q.log()), torch.zeros_like(p)).sum()
