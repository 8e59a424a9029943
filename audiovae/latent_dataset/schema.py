"""What a row of a latent dataset says, and how it stands in Parquet."""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.errors import InputError
from audiovae.latents import Latents

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"audiovae"
"""Of the Parquet schema: settings of the dataset as JSON, the same in every shard."""
FORMAT, VERSION = "audiovae-latent-dataset", 1
Precision = Literal["float16", "float32"]
OK, FAILED = "ok", "failed"
TENSOR_COLUMNS = ("mean", "logvar")
SHAPE_COLUMNS = ("channels", "latent_channels", "latent_frames")
_ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


@dataclass(frozen=True)
class DatasetSettings:
    """What all rows of a dataset have in common; a run with other settings is another dataset."""

    checkpoint: str
    """Fingerprint of the model."""
    sample_rate: int
    """Hz at which the model works."""
    latent_hop_length: int
    """Samples at that rate under one latent frame."""
    precision: Precision = "float16"
    logvar: bool = False
    """Whether the posterior's log-variance is kept too."""
    latent_channels: int | None = None
    """How many of the model's channels are kept, from the first; None: all."""

    def to_json(self) -> str:
        """As it stands in the schema's metadata."""
        return json.dumps({"format": f"{FORMAT}/{VERSION}"} | vars(self))

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None, path: Path) -> "DatasetSettings":
        """Reads what ``to_json`` wrote; raises InputError that names the shard if we didn't write it."""
        try:
            fields = json.loads((metadata or {})[METADATA_KEY])
            name, _, version = fields.pop("format").partition("/")
            if name == FORMAT and int(version) > VERSION:
                raise InputError(
                    f"{path}: made by a newer audiovae: format {name}/{version}, this one reads /{VERSION}"
                )
            settings = cls(**fields)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: a Parquet file, but not a shard of a latent dataset") from error
        if settings.precision not in get_args(Precision):
            raise InputError(f"{path}: unknown precision {settings.precision}")
        return settings


@dataclass(frozen=True, eq=False)
class Row:
    """One recording: where it came from, and its latents or the reason why there are none."""

    source: str
    """Its path below ``root``, as ``name_text`` spells it."""
    root: str
    """Absolute path of the folder that the source is relative to, spelt likewise."""
    size: int | None = None
    """Bytes of the file; None if it couldn't be looked at."""
    mtime_ns: int | None = None
    """When the file was last changed, in nanoseconds since 1970."""
    sha256: str | None = None
    """Checksum of the file's bytes, in hexadecimal digits."""
    error: str | None = None
    """Why there are no latents; None where there are."""
    sample_rate: int | None = None
    samples: int | None = None
    level_db: float | None = None
    mean: Float[Tensor, "channels latent_channels latent_frames"] | None = None
    logvar: Float[Tensor, "channels latent_channels latent_frames"] | None = None

    @property
    def status(self) -> str:
        """``ok`` or ``failed``."""
        return OK if self.error is None else FAILED

    @property
    def seconds(self) -> float:
        """Length of the recording; 0 where it is not known."""
        return self.samples / self.sample_rate if self.samples and self.sample_rate else 0.0


def schema(settings: DatasetSettings) -> "pa.Schema":
    """The columns. Tensors are flat lists, in C order of the shape (channels, latent_channels, latent_frames).

    A flat list is what every reader hands over as one array; of nested lists, pandas makes objects.
    """
    import pyarrow as pa

    numbers = pa.list_(pa.float16() if settings.precision == "float16" else pa.float32())
    columns: dict[str, pa.DataType] = {
        "source": pa.string(),
        "root": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "sha256": pa.string(),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "sample_rate": pa.int32(),
        "samples": pa.int64(),
        "level_db": pa.float64(),
        "checkpoint": pa.string(),
        "channels": pa.int32(),
        "latent_channels": pa.int32(),
        "latent_frames": pa.int64(),
        "mean": numbers,
    }
    if settings.logvar:
        columns["logvar"] = numbers
    return pa.schema(list(columns.items()), metadata={METADATA_KEY: settings.to_json().encode()})


def table(rows: Sequence[Row], settings: DatasetSettings) -> "pa.Table":
    """Rows as an Arrow table of ``schema``."""
    import pyarrow as pa

    shapes = [(None,) * 3 if row.mean is None else tuple(row.mean.shape) for row in rows]
    columns: dict[str, list[object]] = {
        name: [getattr(row, name) for row in rows]
        for name in ("source", "root", "status", "error", "sha256", "size", "mtime_ns")
    }
    columns |= {name: [getattr(row, name) for row in rows] for name in ("sample_rate", "samples", "level_db")}
    columns["checkpoint"] = [settings.checkpoint] * len(rows)
    for place, name in enumerate(SHAPE_COLUMNS):
        columns[name] = [shape[place] for shape in shapes]
    columns["mean"] = [_flat(row.mean, settings.precision) for row in rows]
    if settings.logvar:
        columns["logvar"] = [_flat(row.logvar, settings.precision) for row in rows]
    columns_of = schema(settings)
    return pa.table([pa.array(columns[one.name], one.type) for one in columns_of], schema=columns_of)


def _flat(tensor: Tensor | None, precision: str) -> np.ndarray | None:
    return None if tensor is None else tensor.flatten().numpy().astype(precision)


def mean_of(row: dict[str, "pa.Scalar"]) -> Float[Tensor, "channels latent_channels latent_frames"]:
    """The mean of a row, in float32. Raises ValueError or RuntimeError if it isn't finite, or of another shape."""
    mean = tensor_of(row["mean"]).reshape(_shape(row))
    if not mean.isfinite().all():
        raise ValueError("mean has NaN or infinite values")
    return mean


def to_latents(row: dict[str, "pa.Scalar"]) -> Latents:
    """The latents of a row, in float32. The source is the recording's path below its root."""
    facts = {name: value.as_py() for name, value in row.items() if name not in TENSOR_COLUMNS}
    shape = _shape(row)
    level_db = facts["level_db"]
    return Latents(
        mean=tensor_of(row["mean"]).reshape(shape),
        logvar=tensor_of(row["logvar"]).reshape(shape) if "logvar" in row else None,
        source=facts["source"],
        sample_rate=facts["sample_rate"],
        samples=facts["samples"],
        level_db=-math.inf if level_db is None else level_db,
        checkpoint=facts["checkpoint"],
    )


def to_row(row: dict[str, "pa.Scalar"]) -> Row:
    """The row that ``table`` made this from; its tensors are in float32."""
    names = ("source", "root", "size", "mtime_ns", "sha256", "error", "sample_rate", "samples", "level_db")
    facts: dict[str, Any] = {name: row[name].as_py() for name in names}
    if facts["error"] is None:
        shape = [row[name].as_py() for name in SHAPE_COLUMNS]
        facts |= {name: tensor_of(row[name]).reshape(shape) for name in TENSOR_COLUMNS if name in row}
    return Row(**facts)


def _shape(row: dict[str, "pa.Scalar"]) -> list[int]:
    shape = [row[name].as_py() for name in SHAPE_COLUMNS]
    if not all(size and size > 0 for size in shape):  # -1 would mean something to torch
        raise ValueError(f"latents of shape {shape}")
    return shape


def tensor_of(numbers: "pa.Scalar") -> Float[Tensor, " numbers"]:
    """A copy of a list of numbers, in float32."""
    return torch.from_numpy(np.array(numbers.values.to_numpy(zero_copy_only=False), dtype=np.float32))


def name_text(path: str) -> str:
    """A path as text that Parquet takes; different paths give different texts.

    Nothing changes but a backslash, which is doubled, and a byte that is not UTF-8, which becomes ``\\xff``.
    """
    return os.fsencode(path.replace("\\", "\\\\")).decode("utf-8", "backslashreplace")


def text_name(text: str) -> str:
    """The path that ``name_text`` made the text from."""
    name = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()) if found[1] else b"\\", text.encode())
    try:
        return os.fsdecode(name)
    except UnicodeDecodeError:  # on Windows, where all names are text, it comes from elsewhere
        return name.decode(errors="surrogateescape")
