"""Latents of one recording: what the encoder makes, what all mixing works on, and their file."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.resampling import resampled_length
from audiovae.tensor_file import format_version, read_tensors, write_tensors

FORMAT = "audiovae-latents"
VERSION = 1
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_LEVEL_DB = 1000
"""Of either sign: more than any 32-bit floats can have."""
_FIELDS = {"source": str, "sample_rate": int, "samples": int, "level_db": float, "checkpoint": str}
_KIND_NAMES = {str: "text", int: "a whole number", float: "a number or null"}


def count_latent_frames(samples: int, sample_rate: int, config: Config) -> int:
    """Latent frames of a recording of ``samples`` at ``sample_rate`` Hz, under the model of ``config``.

    The recording is resampled to the model's rate. One frame starts every ``latent_hop_length`` samples; the last
    one is always partial, hence the 1 beside the whole ones.
    """
    model_samples = resampled_length(samples, sample_rate, config.spectrogram.sample_rate)
    return 1 + model_samples // config.latent_hop_length


@dataclass(frozen=True, eq=False)
class Latents:
    """Latents of one recording, with all that decoding needs to restore its length, rate and level.

    Raises ValueError, which names the value, where the fields can't be true.
    """

    mean: Float[Tensor, "channels latent_channels latent_frames"]
    """Mean of the posterior; one row for each audio channel."""
    logvar: Float[Tensor, "channels latent_channels latent_frames"] | None
    """Its log-variance; None for latents that no encoder made."""
    source: str
    """The file they were encoded from, or what they were made of."""
    sample_rate: int
    """Hz of the recording."""
    samples: int
    """Length of the recording, at ``sample_rate``."""
    level_db: float
    """RMS level of the recording in dBFS; -inf for silence."""
    checkpoint: str
    """Fingerprint of the model that made them."""

    def __post_init__(self) -> None:
        _check_tensors(self.mean, self.logvar)
        if self.sample_rate <= 0:
            raise ValueError(f"sample_rate {self.sample_rate} must be above 0")
        if self.samples <= 0:
            raise ValueError(f"samples {self.samples} must be above 0")
        if self.level_db != -math.inf and not abs(self.level_db) <= LARGEST_LEVEL_DB:
            raise ValueError(
                f"level_db {self.level_db} must be -{LARGEST_LEVEL_DB} to {LARGEST_LEVEL_DB}, or -inf for silence"
            )

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.mean.shape[0]

    @property
    def latent_frames(self) -> int:
        """Length of the latents' time axis."""
        return self.mean.shape[2]

    @property
    def duration_seconds(self) -> float:
        """Length of the recording."""
        return self.samples / self.sample_rate

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Writes one safetensors file, whole or not at all.

        Raises InputError where the file exists already and ``force`` is not given, or can't be written.
        """
        tensors = {"mean": self.mean} if self.logvar is None else {"mean": self.mean, "logvar": self.logvar}
        # JSON has no word for infinity: silence is null.
        fields = {name: getattr(self, name) for name in _FIELDS}
        fields["level_db"] = None if self.level_db == -math.inf else self.level_db
        header = {"format": f"{FORMAT}/{VERSION}"} | {name: json.dumps(value) for name, value in fields.items()}
        write_tensors(Path(path), tensors, header, force=force)

    @classmethod
    def load(cls, path: str | Path) -> "Latents":
        """Reads what ``save`` wrote. Raises InputError that names the file and what is wrong with it."""
        tensors, header = read_tensors(Path(path), kind="latents file")
        _check_format(path, header)
        fields = {name: _field(path, header, name) for name in _FIELDS}
        if not {"mean"} <= set(tensors) <= {"mean", "logvar"}:
            raise InputError(f"{path}: holds {sorted(tensors) or 'no tensors'}, want mean and perhaps logvar")
        mean, logvar = tensors["mean"], tensors.get("logvar")
        try:
            _check_tensors(mean, logvar)  # under test, the shapes of the annotations are checked before __post_init__
            return cls(mean=mean, logvar=logvar, **fields)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error


def _check_tensors(mean: Tensor, logvar: Tensor | None) -> None:
    _check_tensor("mean", mean)
    if logvar is not None:
        _check_tensor("logvar", logvar)
        if logvar.shape != mean.shape:
            raise ValueError(f"logvar {list(logvar.shape)} and mean {list(mean.shape)} differ in shape")


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(f"{name} {list(tensor.shape)} must have shape [channels, latent_channels, latent_frames]")
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"{name} must hold real numbers, not {tensor.dtype}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has NaN or infinite values")


def _check_format(path: str | Path, header: dict[str, str]) -> None:
    there, version = header.get("format"), format_version(header, FORMAT)
    if version is None:
        raise InputError(f"{path}: not a latents file (format {there!r}, want '{FORMAT}/{VERSION}')")
    if version > VERSION:
        raise InputError(f"{path}: made by a newer audiovae: format {there}, this one reads up to /{VERSION}")


def _field(path: str | Path, header: dict[str, str], name: str) -> Any:
    if name not in header:
        raise InputError(f"{path}: header lacks {name}")
    try:
        value = json.loads(header[name])
        if name == "level_db" and (value is None or type(value) is int):
            value = -math.inf if value is None else float(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: header field {name} is not JSON") from error
    if type(value) is not _FIELDS[name]:  # bool is an int to isinstance
        raise InputError(f"{path}: header field {name} is {header[name][:40]!r}, want {_KIND_NAMES[_FIELDS[name]]}")
    return value
