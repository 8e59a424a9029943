"""The state of an unfinished run in one safetensors file, written whole: all that resuming bit for bit needs.

Data order, augmentation and posterior noise are functions of seed and step, so they need no saving.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from audiovae.checkpoint import load_checkpoint
from audiovae.errors import InputError
from audiovae.tensor_file import read_tensors, with_prefix, write_tensors

MODEL_FILE, STATE_FILE, LOG_FILE, BOARD_FOLDER = "model.safetensors", "state.safetensors", "log.jsonl", "tensorboard"
"""What a run makes in its folder."""

CHECKSUM = "sha256"
MOST_STEPS = 1 << 40
"""Far more than can be done, and few enough for all that is computed from them."""


@dataclass(frozen=True)
class Position:
    """Where a run is. Raises ValueError where no run can be."""

    step: int = 0
    """Steps that are done."""
    skipped_steps: int = 0
    """Those of them that were not finite, and changed nothing."""
    skipped_in_a_row: int = 0
    """Those since the last finite one."""

    def __post_init__(self) -> None:
        if not 0 <= self.skipped_in_a_row <= self.skipped_steps <= self.step <= MOST_STEPS:
            raise ValueError(f"{asdict(self)} is no position")

    def after(self, *, finite: bool) -> "Position":
        """Where the next step leads."""
        return Position(
            step=self.step + 1,
            skipped_steps=self.skipped_steps + (not finite),
            skipped_in_a_row=0 if finite else self.skipped_in_a_row + 1,
        )


@dataclass(frozen=True)
class Parts:
    """What a run changes, by names: weights, their moving average among them, and the moments of optimizers."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    may_be_new: frozenset[str] = frozenset()
    """Names that an older state may lack: those parts start afresh."""


def model_step(run: Path) -> int:
    """Steps that the model in a run's folder was trained for; -1 if there is none that can be read."""
    try:
        return load_checkpoint(run / MODEL_FILE).facts.step
    except InputError:
        return -1


def save_state(path: Path, parts: Parts, position: Position) -> None:
    """Writes all parts and the position; replaces an older file at once.

    Raises InputError if the disk refuses; the older file then stays as it was.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in parts.modules.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in parts.optimizers.items():
        tensors |= _moments(f"{name}.", optimizer)
    header = {name: json.dumps(value) for name, value in asdict(position).items()}
    write_tensors(path, tensors, header | {CHECKSUM: _checksum(tensors, header)}, force=True)


def load_state(path: Path, parts: Parts) -> Position:
    """Restores what ``save_state`` wrote, in place, and returns the position. Raises InputError that names the file."""
    tensors, header = read_tensors(path, kind="state of a run")
    if header.pop(CHECKSUM, None) != _checksum(tensors, header):
        raise InputError(f"{path}: damaged, or not the state of a run: its checksum is another")

    def saved(name: str) -> dict[str, Tensor] | None:
        own = with_prefix(tensors, f"{name}.")
        return own if own or name not in parts.may_be_new else None

    try:
        position = Position(**{field.name: int(header[field.name]) for field in fields(Position)})
        for name, module in parts.modules.items():
            if (weights := saved(name)) is not None:
                module.load_state_dict(weights)
        for name, optimizer in parts.optimizers.items():
            if (moments := saved(name)) is not None:
                _restore_moments(optimizer, moments)
    except (RuntimeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not the state of this run: {reason}") from error
    return position


def _moments(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{prefix}{index}.{name}": torch.as_tensor(value)
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """SHA-256 of all that a state holds, in the order of names."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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
