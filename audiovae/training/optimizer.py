"""The model's optimizer, and the step that every optimizer makes."""

import torch
from torch import nn

from audiovae.model.vae import VAE


def model_optimizer(vae: VAE, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019). Biases and norms are not decayed."""
    matrices = [parameter for parameter in vae.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in vae.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def step_if_finite(optimizer: torch.optim.Optimizer, model: nn.Module, *, clip: float) -> bool:
    """A step along the gradient, its norm clipped; none, and False, where it is not finite. The gradient is used up."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    finite = bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite
