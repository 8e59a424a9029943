"""The state of an unfinished run in one safetensors file, written whole: all that resuming bit for bit needs.

Data order, augmentation and posterior noise are functions of seed and step, so they need no saving.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from audiovae.errors import InputError


@dataclass(frozen=True)
class Position:
    """Where a run is."""

    step: int = 0
    """Steps that are done."""
    skipped_steps: int = 0
    """Those of them that were not finite, and changed nothing."""
    skipped_in_a_row: int = 0
    """Those since the last finite one."""


def save_state(
    path: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Writes weights, their moving average, the optimizer's moments and the position; replaces an older file at once.

    Raises InputError if the disk refuses; the older file then stays as it was.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    partial = path.with_suffix(".partial")
    try:
        _write(partial, tensors, {name: json.dumps(value) for name, value in asdict(position).items()})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: can't be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode  # what the umask gives; safetensors would leave the file to its owner alone
    save_file(tensors, path, metadata=header)
    path.chmod(mode)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def load_state(path: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Restores what ``save_state`` wrote, in place, and returns the position. Raises InputError that names the file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        skipped = (int(header.get(name, 0)) for name in ("skipped_steps", "skipped_in_a_row"))
        position = Position(int(header["step"]), *skipped)
        model.load_state_dict(_part(tensors, "model."))
        ema.load_state_dict(_part(tensors, "ema."))
        _restore_moments(optimizer, _part(tensors, "optimizer."))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, so there is nothing to resume") from error
    except (OSError, SafetensorError, RuntimeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not the state of this run: {reason}") from error
    return position


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, moment = name.partition(".")
        if tensor.dim():
            # In the parameter's own memory order, which is what the optimizer would have made, and is fast at.
            tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
        moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
