"""Tensors and a header in one safetensors file, which appears whole or not at all."""

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from audiovae.errors import InputError
from audiovae.whole_file import whole_file


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str], *, force: bool = False) -> None:
    """Writes the file; the same content gives the same bytes.

    Raises InputError if the path is taken and ``force`` is off, or the disk refuses: an older file then stays.
    """
    data = _sorted_header(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header))
    with whole_file(path, force=force) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header. Raises InputError that says why the file is no ``kind``, in one line.

    The tensors are copies: while one is a view of the mapped file, Windows lets nobody replace that.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a {kind}")
    if path.exists() and not (path.is_file() and os.access(path, os.R_OK)):
        raise InputError(f"{path}: {'can not be read' if path.is_file() else 'is not a file'}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        cut = "incomplete" in str(error) or "invalid header length" in str(error)
        reason = "truncated or damaged" if cut else "not safetensors"
        raise InputError(f"{path}: not a readable {kind} ({reason})") from error


def format_version(header: dict[str, str], name: str) -> int | None:
    """The version that a header's ``format``, NAME/VERSION, states; None where it is no format of this name."""
    found, _, version = header.get("format", "").partition("/")
    return int(version) if found == name and re.fullmatch("[1-9][0-9]{0,8}", version) else None


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _sorted_header(data: bytes) -> bytes:
    """safetensors writes its header's entries in random order; sorted, equal content is equal bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]
