"""Latent datasets: names that survive, shards that other tools read, rows in any order for torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader

from audiovae.errors import InputError
from audiovae.latent_dataset import shards, torch_dataset
from audiovae.latent_dataset.schema import DatasetSettings, Row, name_text, text_name
from audiovae.latent_dataset.shards import find_shards, keep_rows, next_shard, read_facts, write_shard
from audiovae.latent_dataset.torch_dataset import LatentDataset

SETTINGS = DatasetSettings(checkpoint="0123456789abcdef", sample_rate=44_100, latent_hop_length=4096, logvar=True)
NAMES = [
    "a.wav",
    "live/a.wav",
    "new\nline, ünï.wav",
    "日本/ふえ.flac",
    'quote".wav',
    "back\\slash.wav",
    "caf\udce9.wav",
]


def row(source: str, frames: int, *, channels: int = 1, root: str = "/music") -> Row:
    """A row whose latents tell which it is: value = 1000 * channel + latent channel + frame / 1000."""
    parts = torch.meshgrid(*(torch.arange(size) for size in (channels, 4, frames)), indexing="ij")
    mean = 1000.0 * parts[0] + parts[1] + parts[2] / 1000
    return Row(
        source=name_text(source),
        root=root,
        size=10 * frames,
        mtime_ns=1_700_000_000_123_456_789,
        sha256="ab" * 32,
        sample_rate=22_050,
        samples=1000 * frames,
        level_db=-20.5,
        mean=mean,
        logvar=-mean,
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two shards of encoded rows, one of a failure; the last row is of silence, in stereo."""
    rows = [row(name, 5 + index, channels=1 + index % 2) for index, name in enumerate(NAMES)]
    silent = Row(**(vars(row("silent.wav", 3, channels=2)) | {"level_db": -float("inf")}))
    write_shard(next_shard(tmp_path, shards.ENCODED), rows, SETTINGS)
    write_shard(next_shard(tmp_path, shards.ENCODED), [silent], SETTINGS)
    write_shard(next_shard(tmp_path, shards.FAILURES), [Row("bad.wav", "/music", 3, error="damaged")], SETTINGS)
    (tmp_path / ".lock").touch()  # as a run leaves it
    return tmp_path


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "\\xe9", "\\\\", "\udcff\\xff", "\\x", "trailing\\"])
def test_every_name_becomes_text_and_comes_back(name: str) -> None:
    text = name_text(name)
    assert text.encode("utf-8").decode() == text
    assert text_name(text) == name


def test_no_two_names_become_the_same_text() -> None:
    names = ["caf\udce9", "caf\\xe9", "caf\\\\xe9", "café", "cafe"]
    assert len({name_text(name) for name in names}) == len(names)
    assert name_text("live/ünï\n.wav") == "live/ünï\n.wav"


# --- readers ----------------------------------------------------------------------------------------------------------


def expected() -> dict[str, np.ndarray]:
    rows = [row(name, 5 + index, channels=1 + index % 2) for index, name in enumerate(NAMES)]
    rows.append(row("silent.wav", 3, channels=2))
    return {one.source: one.mean.numpy().astype(np.float16) for one in rows if one.mean is not None}


def check(rows: list[dict[str, object]]) -> None:
    """What a tool read of ``dataset``, with its own types for arrays and nothing."""
    by_source = {one["source"]: one for one in rows}
    assert len(rows) == len(by_source) == len(NAMES) + 2
    for source, mean in expected().items():
        one = by_source[source]
        shape = [int(one[name]) for name in ("channels", "latent_channels", "latent_frames")]  # type: ignore[call-overload]
        np.testing.assert_array_equal(np.asarray(one["mean"], dtype=np.float32).reshape(shape), mean.astype(np.float32))
        assert one["status"] == "ok"
    assert by_source["bad.wav"]["status"] == "failed"
    assert by_source["bad.wav"]["error"] == "damaged"
    assert by_source["silent.wav"]["level_db"] == -float("inf")


def test_pandas_reads_it(dataset: Path) -> None:
    frame = pandas.read_parquet(dataset)
    assert frame["mean"][0].dtype == np.float16
    check(frame.to_dict("records"))


def test_polars_reads_it(dataset: Path) -> None:
    check(polars.read_parquet(dataset / "*.parquet").to_dicts())
    assert polars.scan_parquet(dataset).filter(polars.col("status") == "failed").collect().height == 1


def test_duckdb_reads_it(dataset: Path) -> None:
    relation = duckdb.sql(f"select * from '{dataset}/*.parquet'")
    check([dict(zip(relation.columns, values, strict=True)) for values in relation.fetchall()])
    query = f"select count(*), max(len(mean)) from '{dataset}/*.parquet' where status = 'ok' and channels = 2"
    assert duckdb.sql(query).fetchall() == [(4, 2 * 4 * 10)]


def test_hugging_face_datasets_reads_it(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # In a process of its own: it looks for its cache and its server when it is imported.
    code = (
        "import datasets, json, sys\n"
        "rows = datasets.load_dataset(sys.argv[1], split='train', cache_dir=sys.argv[2])\n"
        "assert rows.features['mean'].feature.dtype == 'float16'\n"
        "print(json.dumps(rows.to_list()))"
    )
    cache = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code, dataset, cache], capture_output=True, text=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr
    check(json.loads(ran.stdout))


def test_arrow_reads_it_with_its_settings(dataset: Path) -> None:
    found = pyarrow.dataset.dataset(dataset)
    check(found.to_table().to_pylist())
    settings = json.loads(found.schema.metadata[b"audiovae"])
    assert settings["format"] == "audiovae-latent-dataset/1"
    assert (settings["checkpoint"], settings["precision"], settings["logvar"]) == (SETTINGS.checkpoint, "float16", True)


# --- shards -----------------------------------------------------------------------------------------------------------


def test_row_groups_are_small_and_a_long_row_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 3000)
    lengths = [10, 20, 500, 10, 10, 10]
    write_shard(tmp_path / "latents-000000.parquet", [row(f"{n}", size) for n, size in enumerate(lengths)], SETTINGS)
    file = pyarrow.parquet.ParquetFile(tmp_path / "latents-000000.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [2, 1, 3]
    found = LatentDataset(tmp_path)
    assert [found[index].shape[2] for index in range(6)] == lengths


def test_rows_can_be_taken_out(dataset: Path) -> None:
    first, second, failures = find_shards(dataset)
    keep_rows(first, pa.array([True, False] * 3 + [True]))
    assert read_facts(first)["source"].to_pylist() == [name_text(name) for name in NAMES[::2]]
    assert torch.equal(LatentDataset(dataset)[1], row(NAMES[2], 7).mean.half().float())  # pyright: ignore[reportOptionalMemberAccess]
    keep_rows(second, pa.array([False]))
    assert find_shards(dataset) == [first, failures]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "a column's name"])
def test_a_damaged_shard_is_named(dataset: Path, damage: str) -> None:
    shard = find_shards(dataset)[0]
    data = bytearray(shard.read_bytes())
    data[data.index(b"level_db") if "name" in damage else 200] ^= 0xFF
    shard.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, data))
    with pytest.raises(InputError, match=f"{shard.name}: damaged"):
        LatentDataset(dataset)


def with_values(shard: Path, row: int, **values: object) -> None:
    """Writes other values into a row, as a program that knows no better would."""
    table = pyarrow.parquet.read_table(shard)
    for name, value in values.items():
        column = table[name].to_pylist()
        column[row] = value
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(column, table.schema.field(name).type))
    pyarrow.parquet.write_table(table, shard)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"level_db": 1e9}, r"level_db 1000000000\.0 must be"),
        ({"samples": -5}, "samples -5 must be above 0"),
        ({"samples": None}, "."),
        ({"sample_rate": 0}, "sample_rate 0 must be above 0"),
        ({"channels": 7}, "shape"),
        ({"channels": -1}, r"latents of shape \[-1, 4, 5\]"),
        ({"mean": None}, "."),
        ({"mean": [float("nan")] * 20}, "mean has NaN"),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_true_is_told_in_one_line(dataset: Path, values: dict[str, object], reason: str) -> None:
    shard = find_shards(dataset)[0]
    with_values(shard, 0, **values)
    found = LatentDataset(dataset)
    with pytest.raises(InputError, match=f"{shard.name}: damaged: row of .*: .*{reason}") as told:
        found.latents(0)
    assert "\n" not in str(told.value)
    if set(values) & {"channels", "mean"}:
        with pytest.raises(InputError, match=f"{shard.name}: damaged: row of .*: .*{reason}"):
            found[0]
    with pytest.raises(IndexError):
        found[len(found)]


def test_columns_of_another_kind_are_refused(dataset: Path) -> None:
    shard = find_shards(dataset)[0]
    table = pyarrow.parquet.read_table(shard)
    pyarrow.parquet.write_table(table.drop_columns("status"), shard)
    with pytest.raises(InputError, match=f"{shard.name}: damaged: has no column status of string"):
        LatentDataset(dataset)


def test_other_parquet_files_and_newer_formats_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latents-000000.parquet"
    pyarrow.parquet.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match=r"latents-000000\.parquet: a Parquet file, but not a shard"):
        LatentDataset(tmp_path)
    metadata = {b"audiovae": b'{"format": "audiovae-latent-dataset/99"}'}
    pyarrow.parquet.write_table(pa.table({"a": [1]}).replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match="made by a newer audiovae: format audiovae-latent-dataset/99"):
        LatentDataset(tmp_path)
    with pytest.raises(InputError, match="missing: no such file or folder"):
        LatentDataset(tmp_path / "missing")
    path.unlink()
    with pytest.raises(InputError, match="no shards of a latent dataset in it"):
        LatentDataset(tmp_path)


def test_shards_of_two_models_are_not_mixed(dataset: Path) -> None:
    other = DatasetSettings(**(vars(SETTINGS) | {"checkpoint": "f" * 16}))
    write_shard(next_shard(dataset, shards.ENCODED), [row("z.wav", 3)], other)
    with pytest.raises(InputError, match="its shards differ"):
        LatentDataset(dataset)


# --- torch ------------------------------------------------------------------------------------------------------------


def test_rows_are_found_by_number_and_by_source(dataset: Path) -> None:
    found = LatentDataset(dataset)
    assert len(found) == len(NAMES) + 1
    for source, mean in expected().items():
        index = found.index_of(source)
        np.testing.assert_array_equal(found[index].numpy(), mean.astype(np.float32))
    latents = found.latents(found.index_of("silent.wav"))
    assert (latents.samples, latents.sample_rate, latents.level_db) == (3000, 22_050, -float("inf"))
    assert latents.checkpoint == SETTINGS.checkpoint
    assert latents.logvar is not None and torch.equal(latents.logvar, -latents.mean)
    with pytest.raises(InputError, match=r"has no bad\.wav"):
        found.index_of("bad.wav")


def test_a_source_that_two_roots_have_is_ambiguous(dataset: Path) -> None:
    write_shard(next_shard(dataset, shards.ENCODED), [row("a.wav", 3, root="/elsewhere")], SETTINGS)
    with pytest.raises(InputError, match=r"several recordings of the name a\.wav, from /music, /elsewhere"):
        LatentDataset(dataset).index_of("a.wav")


def test_crops_are_runs_of_one_channel_and_seeded(dataset: Path) -> None:
    found = LatentDataset(dataset, crop_latent_frames=6)
    assert len(found) == 6  # of 5 to 11 frames and of 3, two are shorter
    torch.manual_seed(0)
    crops = torch.stack([found[index % 6] for index in range(300)])
    assert crops.shape == (300, 4, 6)
    steps = crops[..., 0, :].half().float().round(decimals=3).diff(dim=-1)
    mono = crops[:, 0, 0] < 500
    assert 0 < int(mono.sum()) < 300  # both channels are drawn
    torch.testing.assert_close(steps[mono], torch.full_like(steps[mono], 0.001), atol=1e-5, rtol=0)
    starts = (crops[5::6, 0, 0] % 1000 * 1000).round().int()
    assert starts.min() == 0
    torch.manual_seed(0)
    assert torch.equal(found[0], crops[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gets_each_row_once(dataset: Path, workers: int) -> None:
    found = LatentDataset(dataset)
    before = found[0]  # the parent has files open when the workers are forked
    loader = DataLoader(found, batch_size=None, num_workers=workers)
    read = list(loader)
    assert len(read) == len(found)
    assert all(torch.equal(one, found[index]) for index, one in enumerate(read))
    assert torch.equal(read[0], before)


def test_half_precision_costs_little(tmp_path: Path) -> None:
    """Half an ulp of half precision: 2^-11 of the value, which is far below the posterior's own width."""
    mean = torch.randn(1, 64, 500, generator=torch.Generator().manual_seed(0)) * 2
    for precision, relative in (("float16", 2**-11), ("float32", 0.0)):
        settings = DatasetSettings("0" * 16, 44_100, 4096, precision=precision)  # pyright: ignore[reportArgumentType]
        kept = Row("a", "/", sample_rate=44_100, samples=1, level_db=0.0, mean=mean)
        folder = tmp_path / precision
        folder.mkdir()
        write_shard(next_shard(folder, shards.ENCODED), [kept], settings)
        error = (LatentDataset(folder)[0] - mean).abs()
        assert bool((error <= mean.abs() * relative + 3e-8 * (relative > 0)).all())
        assert bool(error.max() > 0) == (precision == "float16")


def test_thousands_of_shards_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_dataset, "FILES_KEPT", 3)
    monkeypatch.setattr(torch_dataset, "ROW_GROUPS_KEPT", 1)
    for number in range(9):
        write_shard(next_shard(tmp_path, shards.ENCODED), [row(f"{number}.wav", 2 + number)], SETTINGS)
    found, opened, files = LatentDataset(tmp_path), [], Path("/proc/self/fd")
    for index in (*range(9), *range(9)):
        assert found[index].shape[2] == 2 + index
        opened.append(sum(str(tmp_path) in os.readlink(file) for file in files.iterdir() if file.is_symlink()))
    assert max(opened) <= 3 and opened[0] <= 1
