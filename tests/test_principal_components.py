"""The linear part of the model is PCA: against numpy's, and as the lecture says, the best linear code."""

import math

import numpy as np
import torch

from audiovae.config import Config, ModelConfig, SpectrogramConfig
from audiovae.model.principal_components import PrincipalComponents
from audiovae.model.vae import LOGVAR_START, VAE


def correlated_spectrograms(count: int = 200) -> torch.Tensor:
    """Random images of 6 bands and 12 frames that mix a few patterns with a little noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 6, 4, generator=generator)
    weights = torch.randn(count, 3, 4, generator=generator) * torch.tensor([4.0, 2.0, 1.0, 0.5])
    patches = torch.einsum("ctp,pbf->cbtf", weights, patterns).flatten(2)
    return (patches + 0.01 * torch.randn(count, 6, 12, generator=generator) + 3.0)[:, None]


def fitted(latent_channels: int, spectrograms: torch.Tensor) -> PrincipalComponents:
    components = PrincipalComponents(6, 4, latent_channels)
    patches = components.patches(spectrograms).flatten(0, 1)
    components.fit(torch.cov(patches.mT, correction=0), patches.mean(0))
    return components


def test_patches_are_the_bands_under_each_latent_frame():
    spectrogram = torch.arange(72.0).reshape(1, 1, 6, 12)
    patches = PrincipalComponents(6, 4, 2).patches(spectrogram)
    assert patches.shape == (1, 3, 24)
    torch.testing.assert_close(patches[0, 1].reshape(6, 4), spectrogram[0, 0, :, 4:8])


def test_as_many_components_as_patterns_restore_the_spectrogram():
    spectrograms = correlated_spectrograms()
    components = fitted(4, spectrograms)
    error = components.decode(components.encode(spectrograms)) - spectrograms
    assert error.abs().max() < 0.1
    assert error.square().mean().sqrt() < 0.011


def heard(image: np.ndarray) -> np.ndarray:
    """Seven tenths of it smoothed over bands, by a Gaussian of 1.5 bands that is cut at the ends."""
    band = np.arange(image.shape[-2])
    kernel = np.exp(-(((band[:, None] - band) / 1.5) ** 2) / 2)
    return 0.7 * (kernel / kernel.sum(1, keepdims=True)) @ image + 0.3 * image


def test_error_that_is_heard_is_that_of_numpys_best_low_rank_approximation():
    spectrograms = correlated_spectrograms()
    components = fitted(2, spectrograms)
    smoothed = torch.from_numpy(heard(spectrograms.double().numpy()))
    patches = components.patches(smoothed).flatten(0, 1).numpy()
    singular = np.linalg.svd(patches - patches.mean(0), compute_uv=False)
    error = components.decode(components.encode(spectrograms)) - spectrograms
    np.testing.assert_allclose((heard(error.double().numpy()) ** 2).sum(), (singular[2:] ** 2).sum(), rtol=1e-4)


def test_decoder_is_the_regression_of_patches_on_latents():
    spectrograms = correlated_spectrograms()
    components = fitted(2, spectrograms)
    latents = components.encode(spectrograms).transpose(0, 1).flatten(1).mT.double().numpy()
    patches = components.patches(spectrograms).flatten(0, 1).double().numpy()
    centred = patches - patches.mean(0)
    regressed = latents @ np.linalg.lstsq(latents, centred, rcond=None)[0]
    decoded = components.patches(components.decode(components.encode(spectrograms))).flatten(0, 1).numpy()
    np.testing.assert_allclose(decoded - patches.mean(0), regressed, atol=2e-3)


def test_latents_have_unit_variance_and_are_uncorrelated():
    spectrograms = correlated_spectrograms()
    latents = fitted(4, spectrograms).encode(spectrograms).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.cov(latents, correction=0), torch.eye(4), atol=2e-3, rtol=0)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=2e-3, rtol=0)


def test_refitting_gives_the_same_components():
    spectrograms = correlated_spectrograms()
    torch.testing.assert_close(fitted(3, spectrograms).components, fitted(3, spectrograms.clone()).components)


def test_unfitted_components_are_silent():
    components = PrincipalComponents(6, 4, 3)
    assert not components.encode(torch.randn(1, 1, 6, 8)).any()
    assert not components.decode(torch.randn(1, 3, 2)).any()


def test_before_training_all_posteriors_add_the_same_noise_to_what_is_heard():
    config = Config(
        spectrogram=SpectrogramConfig(n_bands=32),
        model=ModelConfig(latent_channels=6, channels=(4, 8), bottleneck_width=16),
    )
    vae, patches = VAE(config), torch.randn(500, 128, generator=torch.Generator().manual_seed(0))
    patches *= torch.linspace(5.0, 0.5, 128)
    vae.fit_components(torch.cov(patches.mT, correction=0), torch.zeros(128))
    logvar, scale = vae.encode(torch.zeros(1, 1, 32, 16)).logvar, vae.components.scale
    assert scale[0] > 1.2 * scale[-1]
    noise = (0.5 * logvar).exp() * scale[:, None]
    expected = torch.full_like(noise, math.exp(LOGVAR_START / 2) * float(scale[-1]))
    torch.testing.assert_close(noise, expected, rtol=0.05, atol=0)
