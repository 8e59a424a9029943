"""Where training starts: the principal components of the training spectrograms' patches."""

import torch

from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.training.data import Cache
from audiovae.training.segments import Segments

PATCHES, PATCHES_OF_A_ROW = 48_000, 12
"""Patches that the covariance is estimated from, at most; and how many for each of its rows."""


def fit_components(vae: VAE, spectrogram: Spectrogram, cache: Cache) -> None:
    """Fits the linear part of a new model to random segments of the training data, without augmentation."""
    config, components = vae.config, vae.components
    segments = Segments(cache, "train", config, augment=False)
    size = components.mean.numel()
    total = torch.zeros(size, dtype=torch.float64)
    products = torch.zeros(size, size, dtype=torch.float64)
    count = 0
    while count < min(PATCHES, PATCHES_OF_A_ROW * size):
        first = count // config.data.segment_latent_frames
        waveform = torch.stack([segments[first + index].waveform for index in range(8)])
        target = spectrogram(waveform[:, None].to(spectrogram.window.device), center=False)
        patches = components.patches(target).flatten(0, 1).cpu()
        total += patches.sum(0)
        products += (patches.mT @ patches).double()
        count += len(patches)
    mean = total / count
    vae.fit_components(products / count - mean[:, None] * mean, mean)
