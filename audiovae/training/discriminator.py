"""A small convolutional network that tells recorded spectrograms from decoded ones, and the losses of that game."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from audiovae.spectrogram import Spectrogram

WIDTHS = (16, 32, 64, 128)
"""Channels of the layers, each of which halves bands and frames."""
SLOPE = 0.2
"""Of the leaky ReLU below zero."""


class Discriminator(nn.Module):
    """Logits of patches of 31 bands and frames: above zero where one looks recorded (Isola et al., 2017, PatchGAN).

    Partials are sharp and noise is rough in some bands and not in others, so a second channel says in which band a
    place lies. Weight norm (Salimans & Kingma, 2016) keeps no statistics, of the batch or of earlier steps.
    """

    bands: Tensor

    def __init__(self, spectrogram: Spectrogram) -> None:
        super().__init__()
        widths = pairwise((2, *WIDTHS))
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, 3, stride=2, padding=1)) for before, after in widths
        )
        self.head = weight_norm(nn.Conv2d(WIDTHS[-1], 1, 1))
        self.floor = float(spectrogram.normalise(torch.zeros(())))
        self.register_buffer("bands", torch.linspace(-1, 1, spectrogram.config.n_bands)[:, None], persistent=False)

    def forward(self, spectrogram: Float[Tensor, "batch 1 n_bands frames"]) -> list[Float[Tensor, "batch ..."]]:
        """Features of every layer, from fine to coarse; the last are the logits.

        What a decoder draws under the front end's floor can't be heard and shall not give it away: it is raised.
        """
        x = spectrogram.clamp_min(self.floor)
        x = torch.cat([x, self.bands.expand_as(x)], dim=1).contiguous(memory_format=torch.channels_last)
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return [*features, self.head(x)]


def discriminator_loss(recorded: Float[Tensor, "batch ..."], decoded: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """Hinge loss of the logits (Lim & Ye, 2017): 2 for one that says nothing, 0 for one that is never wrong."""
    return functional.relu(1 - recorded).mean() + functional.relu(1 + decoded).mean()


def feature_matching_loss(
    recorded: list[Float[Tensor, "batch ..."]], decoded: list[Float[Tensor, "batch ..."]]
) -> Float[Tensor, ""]:
    """How far features are from those of the recording (Larsen et al., 2016), averaged over batch and layers.

    Mean absolute difference of a layer relative to its recorded features' mean size, as in EnCodec (Défossez et al.,
    2022). No gradient goes to the recorded features.
    """
    ratios = []
    for true, made in zip(recorded, decoded, strict=True):
        true = true.detach()
        error = (made - true).abs().flatten(1).mean(1)
        ratios.append((error / true.abs().flatten(1).mean(1).clamp_min(1e-3)).mean())
    return torch.stack(ratios).mean()
