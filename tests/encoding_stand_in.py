"""Runs of encoding without a model or audio: quick enough to be cut short a thousand times."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.run import Outcome, encode_dataset
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import find_shards, open_shard

SETTINGS = DatasetSettings(checkpoint="0123456789abcdef", sample_rate=44_100, latent_hop_length=4096)
FEW_ROWS = 4
"""In a shard of these tests."""


def make_music(folder: Path, count: int = 8) -> Path:
    """Files that ``encode`` below takes for recordings, the first of five for a bad one."""
    folder.mkdir()
    for index in range(count):
        (folder / f"{index:05}.wav").write_text(f"audio {index}" if index % 5 else f"bad {index}")
    return folder


def encode(recordings: Sequence[Recording]) -> Iterator[Row]:
    """A stand-in for the model: the latents are the sum of the file's bytes, and bad files say so."""
    for one in recordings:
        data, status = one.path.read_bytes(), one.path.stat()
        names = {"source": one.source, "root": one.root, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        names["sha256"] = hashlib.sha256(data).hexdigest()
        if data.startswith(b"bad"):
            yield Row(**names, error="bad")
        else:
            mean = torch.full((1, 2, 3), float(sum(data)))
            yield Row(**names, sample_rate=8000, samples=3, level_db=-1.0, mean=mean)


def run(music: Path, dataset: Path, **options: Any) -> Outcome:
    """Encodes a folder of ``make_music``, a few rows a shard."""
    row_bytes = 200 + 2 * 6
    options = {"shard_bytes": FEW_ROWS * row_bytes} | options
    return encode_dataset(find_recordings([music]), dataset, SETTINGS, encode, **options)


def content(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows in the order of the shards, encoded and failed ones apart."""
    rows = pa.concat_tables([open_shard(shard).read() for shard in find_shards(dataset)]).to_pylist()
    return {status: [row for row in rows if row["status"] == status] for status in ("ok", "failed")}
