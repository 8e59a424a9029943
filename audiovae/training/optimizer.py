"""The optimizers, the step that each of them makes, and the average of the weights."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from audiovae.model.flow import Flow
from audiovae.model.vae import VAE


def model_optimizer(vae: VAE, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2019). Biases and norms are not decayed."""
    matrices = [parameter for parameter in vae.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in vae.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def flow_optimizers(flow: Flow, learning_rate: float, weight_decay: float) -> Sequence[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices of the blocks, which are most of the network; AdamW for the rest.

    Biases and norms are not decayed, nor are the local coordinates, which begin as a rotation.
    """
    named = dict(flow.named_parameters())
    matrices = {name for name in named if name.endswith(("widen.weight", "narrow.weight"))}
    kept = {name for name, parameter in named.items() if parameter.dim() == 1} | {"local"}
    decayed = named.keys() - matrices - kept
    groups = [
        {"params": [parameter for name, parameter in named.items() if name in chosen], "weight_decay": decay}
        for chosen, decay in ((decayed, weight_decay), (kept, 0.0))
    ]
    of_blocks = [parameter for name, parameter in named.items() if name in matrices]
    return [
        torch.optim.Muon(of_blocks, learning_rate, weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.99)),
    ]


def step_if_finite(optimizers: Sequence[torch.optim.Optimizer], model: nn.Module, *, clip: float) -> bool:
    """A step along the gradient, its norm clipped; none, and False, where it is not finite. The gradient is used up."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    finite = bool(torch.isfinite(norm))
    for optimizer in optimizers:
        if finite:
            optimizer.step()
    model.zero_grad(set_to_none=True)
    return finite


def average(ema: nn.Module, model: nn.Module, *, decay: float) -> None:
    """Moves the average of a model's weights towards the weights, all of them by one kernel on a GPU."""
    move = get_ema_multi_avg_fn(decay)
    move([*ema.parameters()], [*model.parameters()], 0)
