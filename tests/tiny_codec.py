"""A model of a few thousand parameters for tests: its linear part is random, so that unlike sounds stay unlike."""

from pathlib import Path

import torch

from audiovae.checkpoint import Facts, save_checkpoint
from audiovae.config import Config, ModelConfig, SpectrogramConfig
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE

TINY = Config(
    spectrogram=SpectrogramConfig(n_bands=64),
    model=ModelConfig(
        latent_channels=8,
        channels=(8, 8, 8),
        band_strides=(4, 2, 2),
        encoder_blocks=(0, 1, 1),
        decoder_blocks=(1, 1, 1),
        bottleneck_width=16,
        bottleneck_stride=1,
    ),
)


def save_tiny(path: Path, *, seed: int = 0) -> Path:
    """Writes an untrained checkpoint; another seed gives another model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(TINY)
        size = TINY.spectrogram.n_bands * TINY.model.time_stride
        spread = torch.randn(size, 16)
        model.components.fit(spread @ spread.mT, torch.zeros(size))
    facts = Facts(version="0.1.0", step=3, data="nothing", license="CC0", metrics={"error_db": 12.5})
    save_checkpoint(path, model=model, prior=Prior.standard(8), facts=facts)
    return path
