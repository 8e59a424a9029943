"""The files of a latent dataset: each appears whole or not at all, in the order of their numbers."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audiovae.errors import InputError, in_one_line
from audiovae.latent_dataset.schema import TENSOR_COLUMNS, DatasetSettings, Row, schema, table
from audiovae.whole_file import whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ENCODED, FAILURES = "latents", "latents-failed"
"""Failures have shards of their own: to try them again, no latents need to be written again."""
ROW_GROUP_BYTES = 1 << 20
"""A row group is the least that can be read: small, so that one recording of many is soon found."""


_NAME = re.compile(rf"({FAILURES}|{ENCODED})-(\d+)\.parquet")


class DamagedShard(InputError):
    """A file that is not a shard, or not any more: the disk can read it, but its content makes no sense."""


def find_shards(dataset: Path) -> list[Path]:
    """The shards of a dataset, or the one that is given: encoded ones first, each kind in order.

    Raises InputError if there is no such folder.
    """
    if dataset.is_file():
        return [dataset]
    if not dataset.is_dir():
        raise InputError(f"{dataset}: no such file or folder")
    found = [(match[1], int(match[2]), path) for path in dataset.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for kind in (ENCODED, FAILURES) for _, _, path in sorted(one for one in found if one[0] == kind)]


def next_shard(dataset: Path, kind: str) -> Path:
    """The name after the last one of a kind."""
    found = [_NAME.fullmatch(path.name) for path in find_shards(dataset)]
    numbers = [int(match[2]) for match in found if match and match[1] == kind]
    return dataset / f"{kind}-{max(numbers, default=-1) + 1:06}.parquet"


def open_shard(path: Path, *, checksums: bool = False, mapped: bool = False) -> "pq.ParquetFile":
    """A shard. Raises InputError, in one line that names it, if it is damaged or none.

    One that is memory-mapped may stay so for a moment after it is closed: Windows then lets nobody replace it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, memory_map=mapped, page_checksum_verification=checksums)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the last for a damaged name of a column
        raise _unreadable(path, error, "damaged, or not a Parquet file") from error


def _unreadable(path: Path, error: Exception, damage: str) -> InputError:
    """The error to raise: a disk that refuses says nothing about what is on it."""
    if isinstance(error, OSError) and error.errno:
        return InputError(f"{path}: {os.strerror(error.errno)}")
    return DamagedShard(f"{path}: {damage}")


def shard_settings(path: Path) -> DatasetSettings:
    """What a shard's rows have in common; raises InputError like ``open_shard``, or if it is none of ours."""
    with open_shard(path) as file:
        settings, there = DatasetSettings.from_metadata(file.schema_arrow.metadata, path), file.schema_arrow
    for column in schema(settings):
        if column.name not in there.names or there.field(column.name).type != column.type:
            raise DamagedShard(f"{path}: damaged: has no column {column.name} of {column.type}")
    return settings


def read_facts(path: Path) -> "pa.Table":
    """All columns of a shard but its tensors; raises InputError like ``open_shard``."""
    import pyarrow as pa

    with open_shard(path, checksums=True) as file:
        names = [name for name in file.schema_arrow.names if name not in TENSOR_COLUMNS]
        try:
            return file.read(names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error, f"damaged: {in_one_line(error, 120)}") from error


def write_shard(path: Path, rows: Sequence[Row], settings: DatasetSettings) -> None:
    """Writes rows as a new shard that, when this returns, survives a power cut; InputError if the disk refuses."""
    _write(path, (table(group, settings) for group in _row_groups(rows)), settings, force=False)


def keep_rows(path: Path, keep: "pa.BooleanArray") -> None:
    """Takes the other rows out of a shard; one without rows is deleted."""
    if keep.true_count == 0:
        path.unlink()
        _sync_folder(path.parent)
        return
    with open_shard(path, checksums=True) as file:
        settings = DatasetSettings.from_metadata(file.schema_arrow.metadata, path)
        groups, start = [], 0
        for index in range(file.num_row_groups):
            group = read_rows(file, index, path)
            groups.append(group.filter(keep.slice(start, len(group))))
            start += len(group)
    _write(path, [group for group in groups if len(group)], settings, force=True)


def read_rows(file: "pq.ParquetFile", group: int, path: Path) -> "pa.Table":
    """A row group of an opened shard; raises InputError that names the shard if it is damaged."""
    import pyarrow as pa

    try:
        return file.read_row_group(group, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error, f"damaged: {in_one_line(error, 120)}") from error


def _row_groups(rows: Sequence[Row]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    space = 0
    for row in rows:
        needed = row_bytes(row)
        if not groups or space < needed:
            groups.append([])
            space = ROW_GROUP_BYTES
        groups[-1].append(row)
        space -= needed
    return groups


def row_bytes(row: Row) -> int:
    """About what a row takes on disk in half precision; a fact sheet counts as 200 bytes."""
    return 200 + 2 * sum(tensor.numel() for tensor in (row.mean, row.logvar) if tensor is not None)


def _write(path: Path, groups: "Iterable[pa.Table]", settings: DatasetSettings, *, force: bool) -> None:
    import pyarrow.parquet as pq

    columns = schema(settings)
    facts = [name for name in columns.names if name not in TENSOR_COLUMNS]
    with whole_file(path, force=force) as temporary, temporary.open("wb") as file:
        # Latents are noise to a compressor: zstd takes 7 % off those of data/examples, and costs every reader its time.
        with pq.ParquetWriter(
            file,
            columns,
            compression="none",
            use_dictionary=facts,  # pyright: ignore[reportArgumentType]
            write_statistics=facts,  # pyright: ignore[reportArgumentType]
            write_page_checksum=True,
        ) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=max(1, len(group)))
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a new name in it survive a power cut; Windows has no such call, and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
