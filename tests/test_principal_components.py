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


def test_error_is_that_of_numpys_best_low_rank_approximation():
    spectrograms = correlated_spectrograms()
    components = fitted(2, spectrograms)
    patches = components.patches(spectrograms).flatten(0, 1).double().numpy()
    centred = patches - patches.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    best = (singular[2:] ** 2).sum()
    ours = (components.decode(components.encode(spectrograms)) - spectrograms).double().square().sum()
    np.testing.assert_allclose(float(ours), best, rtol=1e-4)


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


def test_before_training_all_posteriors_add_the_same_noise_to_the_spectrogram():
    config = Config(
        spectrogram=SpectrogramConfig(n_bands=32),
        model=ModelConfig(latent_channels=6, channels=(4, 4, 8), bottleneck_width=16),
    )
    vae, scale = VAE(config), torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    variances = torch.cat([scale.square(), torch.zeros(32 * 8 - 6)])
    vae.fit_components(torch.diag(variances), torch.zeros(32 * 8))
    posterior = vae.encode(torch.zeros(1, 1, 32, 16))
    noise = (0.5 * posterior.logvar).exp() * scale[:, None]
    torch.testing.assert_close(noise, torch.full_like(noise, math.exp(LOGVAR_START / 2) * 0.5), rtol=0.05, atol=0)
