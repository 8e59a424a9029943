"""What a dataset holds already, and what is left to do. The shards themselves are the only record of it."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from unicodedata import normalize

import numpy as np

from audiovae.encoding import remote
from audiovae.encoding.inputs import Recording, full_name
from audiovae.encoding.preparation import checksum, look_at
from audiovae.encoding.remote import Looks, scheme_of
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import OK, DatasetSettings, text_name
from audiovae.latent_dataset.shards import DamagedShard, find_shards, keep_rows, read_facts, shard_settings

if TYPE_CHECKING:
    import pyarrow as pa

Redo = Literal["missing", "changed", "content", "all"]
"""Which recordings are encoded: those without latents; also those whose size or time of change differ; or whose
checksum differs (every file is read for that); or all. What can't be read now keeps the latents that it has. Old rows
go first: after an interrupt they are missing, and the next run makes them."""

STORE_THREADS, STORE_CHUNK = 32, 256
"""Requests to a store at once, and how many wait for their turn."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A row of a shard."""

    shard: int
    row: int
    root: str
    source: str
    ok: bool
    size: int | None
    mtime_ns: int | None
    sha256: str | None


@dataclass
class Plan:
    """What a run will do."""

    todo: list[Recording]
    done: int = 0
    changed: int = 0
    """Of those done: recordings that are not what they were when they were encoded."""
    damaged: list[Path] = field(default_factory=list)
    """Shards that make no sense, under the names by which they were set aside; their recordings are missing."""


def make_plan(recordings: Sequence[Recording], dataset: Path, settings: DatasetSettings, *, redo: Redo) -> Plan:
    """Compares recordings with rows, and takes the rows that are to be made anew out of their shards.

    A row is a recording's if it has its path, however it is spelt; or its source and checksum, where the row's own
    path leads nowhere any more: then the recordings were moved. Call it under the lock. Raises InputError if the
    dataset has other settings.
    """
    plan = Plan([])
    shards, held = _held(dataset, settings, plan)
    out: set[tuple[int, int]] = set()
    for recording, row, changed in _compared(recordings, held, redo):
        if changed is not None and (not changed or redo == "missing"):
            plan.done += 1
            plan.changed += changed
            continue
        if row is not None:
            out.add((row.shard, row.row))
        plan.todo.append(recording)
    damaged = _take_out(shards, out)
    if damaged:
        again = make_plan(recordings, dataset, settings, redo=redo)
        again.damaged[:0] = [*plan.damaged, *damaged]
        return again
    return plan


def _set_aside(shard: Path) -> Path:
    """Hides a damaged shard, for whoever would save what is left in it; returns its new name."""
    endings = chain([""], (f".{number}" for number in count(2)))
    names = (shard.with_name(f".damaged-{shard.name}{ending}") for ending in endings)
    aside = next(name for name in names if not name.exists())
    os.replace(shard, aside)
    return aside


def _held(dataset: Path, settings: DatasetSettings, plan: Plan) -> tuple[list[Path], dict[str, _Held]]:
    for left in dataset.glob(".*.parquet.*.tmp"):
        left.unlink(missing_ok=True)  # of a run that was killed
    shards: list[Path] = []
    held: dict[str, _Held] = {}
    for shard in find_shards(dataset):
        read = _read(shard)
        if read is None:
            plan.damaged.append(_set_aside(shard))
            continue
        facts, made_with = read
        _refuse_others(dataset, made_with, settings)
        names = ("root", "source", "status", "size", "mtime_ns", "sha256")
        for index, values in enumerate(zip(*(facts[name].to_pylist() for name in names), strict=True)):
            root, source, status, *rest = values
            row = _Held(len(shards), index, root, source, status == OK, *rest)
            held.setdefault(full_name(root, source), row)
        shards.append(shard)
    return shards, held


def _read(shard: Path) -> "tuple[pa.Table, DatasetSettings] | None":
    """Facts and settings of a shard; None if it is damaged.

    Its error ends here: while there is a traceback the file is open, and Windows renames none that is.
    """
    try:
        return read_facts(shard), shard_settings(shard)
    except DamagedShard:
        return None


def _refuse_others(dataset: Path, made_with: DatasetSettings, settings: DatasetSettings) -> None:
    if made_with.checkpoint != settings.checkpoint:
        reason = f"holds latents of checkpoint {made_with.checkpoint}, this one is {settings.checkpoint}"
        raise InputError(f"{dataset}: {reason}: use another folder")
    if made_with != settings:
        differ = [name for name, value in vars(settings).items() if getattr(made_with, name) != value]
        was = ", ".join(f"{name} {getattr(made_with, name)}" for name in differ)
        raise InputError(f"{dataset}: was made with {was}: use the same, or another folder")


def _compared(
    recordings: Sequence[Recording], held: dict[str, _Held], redo: Redo
) -> Iterator[tuple[Recording, _Held | None, bool | None]]:
    """Each recording with its row, and whether it changed since; None for what is encoded in any case.

    A store is asked for many at once: it takes its time for each.
    """
    by_source: dict[str, list[_Held]] = {}
    for row in held.values():
        by_source.setdefault(row.source, []).append(row)

    def compare(recording: Recording) -> tuple[Recording, _Held | None, bool | None]:
        own = held.get(recording.name) or _spelt_otherwise(recording, by_source)
        row = own or _of_another_root(recording, by_source)
        if row is None or not row.ok or (redo == "all" and _can_be_read(recording)):
            return recording, row, None
        # What was moved has its row's checksum, whatever its date: a store gives a copy a new one.
        return recording, row, own is not None and _is_changed(recording, own, by_content=redo == "content")

    with ThreadPoolExecutor(STORE_THREADS) as threads:
        for start in range(0, len(recordings), STORE_CHUNK):
            chunk = recordings[start : start + STORE_CHUNK]
            yield from (threads.map if any(one.uri for one in chunk) else map)(compare, chunk)


def _spelt_otherwise(recording: Recording, by_source: dict[str, list[_Held]]) -> _Held | None:
    """The row of the same file below the same folder, where a system takes Music and music for one."""
    candidates = [] if recording.uri else by_source.get(recording.source, [])
    return next((row for row in candidates if _is_spelling(full_name(row.root, row.source), recording.name)), None)


def _is_spelling(one: str, other: str) -> bool:
    if normalize("NFC", one).casefold() != normalize("NFC", other).casefold():
        return False
    try:
        return os.path.samefile(text_name(one), text_name(other))
    except OSError:  # one is gone, or in an archive
        return False


def _of_another_root(recording: Recording, by_source: dict[str, list[_Held]]) -> _Held | None:
    """The row of a recording that was moved, with the folder that it lies in."""
    candidates = by_source.get(recording.source, [])
    gone = [row for row in candidates if _is_gone(text_name(full_name(row.root, row.source)))]
    if not gone:
        return None
    try:
        size, _ = _looks(recording)
    except (OSError, ValueError):
        return None
    alike = [row for row in gone if row.size == size and row.sha256 is not None]
    found = checksum(recording) if alike else None
    return next((row for row in alike if row.sha256 == found), None)


def _is_gone(path: str) -> bool:
    if not scheme_of(path):
        # One in an archive that is still there was not moved.
        return not (os.path.lexists(path) or any(map(os.path.isfile, Path(path).parents)))
    try:
        remote.look_at(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False  # who knows
    return False


def _looks(recording: Recording) -> Looks:
    return recording.listed or look_at(recording)


def _can_be_read(recording: Recording) -> bool:
    try:
        _looks(recording)
    except (OSError, ValueError):
        return False
    return True


def _is_changed(recording: Recording, row: _Held, *, by_content: bool) -> bool:
    try:
        looks = _looks(recording)
    except (OSError, ValueError):
        return False  # it can't be read now, but its latents are there
    if by_content:
        return checksum(recording) not in (row.sha256, None)
    return looks != (row.size, row.mtime_ns)


def _take_out(shards: list[Path], out: set[tuple[int, int]]) -> list[Path]:
    """Removes rows from shards; whatever happens from now on, they are missing, and made by this run or the next.

    Returns shards that turned out damaged, which were set aside with all their rows.
    """
    import pyarrow as pa

    damaged: list[Path] = []
    by_shard: dict[int, list[int]] = {}
    for shard, row in out:
        by_shard.setdefault(shard, []).append(row)
    for shard, rows in by_shard.items():
        keep = np.ones(len(read_facts(shards[shard])), dtype=bool)
        keep[rows] = False
        try:
            keep_rows(shards[shard], pa.array(keep))
        except DamagedShard:
            damaged.append(shards[shard])
    return [_set_aside(shard) for shard in damaged]
