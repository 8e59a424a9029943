"""A corpus that is stored decoded, which training reads where it lies: no second copy of gigabytes.

Such a folder holds ``decoded.int16``, mono samples of 16 bits, one recording after the other, and ``decoded.json``,
written last, which says where each one lies.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiovae.errors import InputError, in_one_line

DECODED_AUDIO, DECODED_INDEX = "decoded.int16", "decoded.json"


@dataclass(frozen=True)
class Source:
    """One audio file in the cache."""

    path: str
    offset: int
    samples: int
    level_db: float
    split: str = "train"


def sources_of(entries: list[dict[str, Any]]) -> list[Source]:
    """The sources that an index lists. Raises ValueError or TypeError where they can't be true."""
    sources = [Source(**entry) for entry in entries]
    end = 0
    for one in sources:
        whole = type(one.offset) is int and type(one.samples) is int and one.offset == end and one.samples >= 0
        if not (whole and isinstance(one.path, str) and Path(one.path).parts and math.isfinite(one.level_db)):
            raise ValueError(f"{str(one)[:120]} can't be")
        end += one.samples
    return sources


def is_decoded(folder: Path) -> bool:
    """Whether a folder holds decoded audio. Raises InputError if only a part of it is there yet."""
    if (folder / DECODED_INDEX).exists():
        return True
    if (folder / DECODED_AUDIO).exists():
        raise InputError(f"{folder}: its rendering was not finished: run the same command again, it goes on")
    return False


def open_decoded(folder: Path, sample_rate: int) -> tuple[Path, list[Source]]:
    """The samples and their index. Raises InputError if they are damaged, or of another rate (Hz) than wanted."""
    audio, index = folder / DECODED_AUDIO, folder / DECODED_INDEX
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        there, sources = int(content["sample_rate"]), sources_of(content["sources"])
        size = audio.stat().st_size
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{index}: not an index of decoded audio: {in_one_line(error)}") from error
    if there != sample_rate:
        raise InputError(f"{folder}: holds audio at {there} Hz, the config wants {sample_rate} Hz")
    if size != 2 * sum(source.samples for source in sources):
        raise InputError(f"{audio}: not the {2 * sum(source.samples for source in sources)} bytes that it should hold")
    return audio, sources


def top_folder(source: Source) -> str:
    """The folder at the top of the data that a source lies in; the file's own name if it lies in none."""
    return Path(source.path).parts[0]


def drawing_lengths(sources: Sequence[Source], shares: Mapping[str, float]) -> list[int]:
    """What counts as each source's length in samples when segments are drawn: its own, scaled to its folder's share.

    Folders without a share have what is left, by length. Those of which nothing is among the sources don't count.
    """
    groups = [top_folder(source) if top_folder(source) in shares else None for source in sources]
    lengths: Counter[str | None] = Counter()
    for group, source in zip(groups, sources, strict=True):
        lengths[group] += source.samples
    left = max(0.0, 1 - sum(share for name, share in shares.items() if name in lengths))
    whole = lengths.total()
    scales = {group: whole / length * (left if group is None else shares[group]) for group, length in lengths.items()}
    if set(scales) == {None}:
        return [source.samples for source in sources]
    return [round(source.samples * scales[group]) for group, source in zip(groups, sources, strict=True)]
