"""Which audio files are trained on, which are held out, and which are kept for tests."""

import hashlib
from dataclasses import replace
from pathlib import Path

from audiovae.config import DataConfig
from audiovae.training.decoded import Source

SPLITS = ("train", "valid", "test")


def with_splits(sources: list[Source], data: DataConfig) -> tuple[Source, ...]:
    """A folder named train, valid or test in the path says which; without a valid one, a hash of the path does.

    A hash stays what it is when files are added. Where it would leave nothing to train on, nothing is held out.
    """
    folders = [next((part for part in Path(one.path).parts[:-1] if part in SPLITS), "train") for one in sources]
    if "valid" not in folders:
        hashed = [_share_of(one.path) < data.validation_share for one in sources]
        held_out = ["valid" if out and name == "train" else name for out, name in zip(hashed, folders, strict=True)]
        folders = held_out if "train" in held_out else folders
    return tuple(replace(source, split=name) for source, name in zip(sources, folders, strict=True))


def _share_of(path: str) -> float:
    """A number from 0 to 1 that looks random and belongs to the path."""
    return int(hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8], 16) / 0xFFFFFFFF
