"""Where the compiled loops work (see ``compiled``); apart from them, since numba is slow to import."""

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

TINY = 1e-30
"""Added to divisors, so that zero divided by zero is zero."""
LOOPING_DEVICES = {"cpu"}
"""Types of device on which compiled loops are used; tests empty it, to compare."""


def has_loops(tensor: Tensor) -> bool:
    """Whether the compiled loops work on it: they take one recording at a time, and know no gradients."""
    return tensor.device.type in LOOPING_DEVICES and not tensor.requires_grad


def pairs(spectrum: Complex[Tensor, "frames bins"]) -> np.ndarray:
    """Real and imaginary parts side by side, ``[frames, 2 * bins]``."""
    return torch.view_as_real(spectrum).flatten(1).numpy()
