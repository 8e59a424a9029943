"""A latent dataset for torch: rows in any order, by number or by source, whole or in crops."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from audiovae.errors import InputError, in_one_line
from audiovae.latent_dataset.schema import OK, mean_of, to_latents
from audiovae.latent_dataset.shards import find_shards, open_shard, read_facts, read_rows, shard_settings
from audiovae.latents import Latents

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUPS_KEPT, FILES_KEPT = 16, 64
"""Row groups (1 MiB each, more where a single recording is longer) that a process keeps in memory; and shards that it
keeps open: a system allows a process some hundreds, and there may be thousands."""


class LatentDataset(Dataset[Tensor]):
    """The encoded recordings of a latent dataset; failures are left out.

    ``dataset[index]`` is the posterior's mean, float32 of shape [channels, latent_channels, latent_frames]. With
    ``crop_latent_frames`` it is a random crop of a random channel, [latent_channels, crop_latent_frames], so that
    crops make batches; recordings shorter than a crop are left out. Randomness is torch's, so that
    ``torch.manual_seed`` and the workers of a DataLoader seed it.

    Shards are memory-mapped and opened by each process for itself: any number of workers share the system's cache.
    Raises InputError that names the folder or shard that can't be used.
    """

    def __init__(self, path: str | Path, *, crop_latent_frames: int | None = None) -> None:
        import pyarrow as pa

        self.path, self.crop_latent_frames = Path(path), crop_latent_frames
        self.shards = find_shards(self.path)
        if not self.shards:
            raise InputError(f"{path}: no shards of a latent dataset in it (*.parquet)")
        self.settings = shard_settings(self.shards[0])
        if others := {shard_settings(shard) for shard in self.shards} - {self.settings}:
            raise InputError(f"{path}: its shards differ: {self.settings.to_json()} and {others.pop().to_json()}")
        facts = [read_facts(shard) for shard in self.shards]
        places = np.concatenate([_places(number, shard) for number, shard in enumerate(self.shards)])
        table = pa.concat_tables(facts)
        keep = np.array(table["status"].to_numpy() == OK, dtype=bool)
        if crop_latent_frames is not None:
            if crop_latent_frames < 1:
                raise InputError(f"crop_latent_frames {crop_latent_frames}: must be at least 1")
            keep &= table["latent_frames"].fill_null(0).to_numpy() >= crop_latent_frames
            if not keep.any():
                raise InputError(f"{path}: no recording in it is as long as {crop_latent_frames} latent frames")
        self.facts: pa.Table = table.filter(pa.array(keep))
        """Every column but the tensors, a row for each index."""
        self._places = places[keep]
        self._forget()

    def __len__(self) -> int:
        """Encoded recordings that are long enough."""
        return len(self._places)

    def __getitem__(self, index: int) -> Float[Tensor, "*channels latent_channels latent_frames"]:
        """The mean of a recording, or a crop of it; raises InputError if its row contradicts itself."""
        row = self._row(index)
        with self._telling_the_row(index):
            mean = mean_of(row)
        if self.crop_latent_frames is None:
            return mean
        channel = int(torch.randint(mean.shape[0], ()))
        start = int(torch.randint(mean.shape[2] - self.crop_latent_frames + 1, ()))
        return mean[channel, :, start : start + self.crop_latent_frames].clone()

    def latents(self, index: int) -> Latents:
        """All of a recording, fit for ``Codec.decode``; raises InputError if its row contradicts itself."""
        row = self._row(index)
        with self._telling_the_row(index):
            return to_latents(row)

    def index_of(self, source: str) -> int:
        """Where the recording of a source is; raises InputError if there is none, or more than one."""
        found = self._index_of.get(source, [])
        if len(found) != 1:
            roots = ", ".join(self.facts["root"][index].as_py() for index in found)
            reason = f"several recordings of the name {source}, from {roots}" if found else f"has no {source}"
            raise InputError(f"{self.path}: {reason}")
        return found[0]

    def __getstate__(self) -> dict[str, object]:
        """What a worker gets: no open files."""
        return self.__dict__ | {"_files": OrderedDict(), "_groups": OrderedDict(), "_process": -1}

    @contextmanager
    def _telling_the_row(self, index: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, LookupError, RuntimeError, AttributeError, OverflowError) as error:
            shard, source = self.shards[int(self._places[index][0])], self.facts["source"][index]
            raise InputError(f"{shard}: damaged: row of {source}: {in_one_line(error, 120)}") from error

    @cached_property
    def _index_of(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for index, source in enumerate(self.facts["source"].to_pylist()):
            found.setdefault(source, []).append(index)
        return found

    def _forget(self) -> None:
        self._process = os.getpid()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()

    def _row(self, index: int) -> "dict[str, pa.Scalar]":
        shard, group, row = map(int, self._places[index])
        table = self._row_group(shard, group)
        return {name: table[name][row] for name in table.column_names}

    def _row_group(self, shard: int, group: int) -> "pa.Table":
        if self._process != os.getpid():
            # After a fork: what the parent opened is the parent's.
            self._forget()
        if (shard, group) not in self._groups:
            self._groups[shard, group] = read_rows(self._file(shard), group, self.shards[shard])
            if len(self._groups) > ROW_GROUPS_KEPT:
                self._groups.popitem(last=False)
        self._groups.move_to_end((shard, group))
        return self._groups[shard, group]

    def _file(self, shard: int) -> "pq.ParquetFile":
        if shard not in self._files:
            self._files[shard] = open_shard(self.shards[shard], checksums=True, mapped=True)
            if len(self._files) > FILES_KEPT:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]


def _places(number: int, shard: Path) -> np.ndarray:
    """Shard, row group and row within it, of every row."""
    with open_shard(shard) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, dtype=np.int64)
    return np.stack([np.full(len(groups), number), groups, rows], axis=1)
