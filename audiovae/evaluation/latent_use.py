"""How much of its latents a model uses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from audiovae.config import Config
from audiovae.latents import Latents
from audiovae.model.posterior import ACTIVE_VARIANCE, gaussian_kl


@dataclass(frozen=True)
class LatentUse:
    """Of one model, over all clips."""

    values_a_second: float
    """Latent values."""
    kl_bits_a_second: float
    """KL of the posterior to N(0, I), NaN without a posterior: what the latents tell, at the most."""
    active_channels: int
    """Channels whose mean varies over the clips."""
    channels: int


def latent_use(config: Config, clips: Sequence[Latents]) -> LatentUse:
    """Of a model of this config, from the clips' latents."""
    mean = torch.cat([one.mean for one in clips], dim=2)
    kl = math.nan
    if config.model.variational and all(one.logvar is not None for one in clips):
        logvar = torch.cat([one.logvar for one in clips if one.logvar is not None], dim=2)
        kl = float(gaussian_kl(mean, logvar).sum(1).mean()) / math.log(2) * config.latent_rate
    active = int((mean.var(dim=(0, 2)) > ACTIVE_VARIANCE).sum())
    return LatentUse(config.latent_rate * mean.shape[1], kl, active, mean.shape[1])
