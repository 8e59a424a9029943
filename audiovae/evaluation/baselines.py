"""What a model must beat at the same number of latent values: its own principal components, alone."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.codec import Codec
from audiovae.model.posterior import LOGVAR_RANGE, Posterior
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE


class LinearModel(VAE):
    """PCA of spectrogram patches: the linear part of a model, without the network."""

    def encode(self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]) -> Posterior:
        """Coordinates on the components, of unit variance over the training data; a point, not a distribution."""
        latents = self.components.encode(spectrogram)
        return Posterior(latents, torch.full_like(latents, LOGVAR_RANGE[0]))

    def decode(
        self, latents: Float[Tensor, "batch latent_channels latent_frames"]
    ) -> Float[Tensor, "batch 1 n_bands frames"]:
        """The closest spectrogram on the components."""
        return self.components.decode(latents)

    @property
    def context_latent_frames(self) -> int:
        """None: each patch stands alone."""
        return 0


def pca_codec(codec: Codec) -> Codec | None:
    """A codec that is the PCA in a model: as many latent values, the same front end; None if it was never fitted.

    Its prior is N(0, I), the one that goes with components of unit variance.
    """
    model = codec.checkpoint.model
    if not model.components.components.any():
        return None
    with torch.device("meta"):
        linear = LinearModel(codec.config)
    linear.components = model.components
    prior = Prior.standard(codec.config.model.latent_channels)
    name = f"{codec.fingerprint}-pca"
    return replace(codec, checkpoint=replace(codec.checkpoint, model=linear, prior=prior, fingerprint=name))
