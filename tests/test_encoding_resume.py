"""What a run makes of a dataset that is there already: damaged, of other files, of another model, in use."""

import errno
import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import pyarrow.parquet as pq
import pytest
import torch
from encoding_stand_in import SETTINGS, content, encode, make_music, run

from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.run import encode_dataset
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import find_shards


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Eight files, the first and the sixth bad ones."""
    return make_music(tmp_path / "music")


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_shard_is_set_aside_and_made_again(music: Path, tmp_path: Path, damage: str) -> None:
    dataset = tmp_path / "latents"
    run(music, dataset)
    expected = content(dataset)
    last = [shard for shard in find_shards(dataset) if "failed" not in shard.name][-1]
    data = bytearray(last.read_bytes())
    data[data.index(b"00007.wav")] ^= 0xFF
    last.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "flipped": data}[damage])
    outcome = run(music, dataset)
    aside = dataset / f".damaged-{last.name}"
    assert outcome.damaged == [aside] and outcome.encoded > 0
    assert content(dataset) == expected
    last.unlink()  # written in place, it would change under whoever has it mapped
    last.write_bytes(b"damaged again")
    assert run(music, dataset).damaged == [aside.with_name(f"{aside.name}.2")]
    assert aside.exists() and aside.with_name(f"{aside.name}.2").read_bytes() == b"damaged again"


@pytest.mark.parametrize("refused", ["open_shard", "read"])
def test_a_shard_that_the_disk_refuses_stays_where_it_is(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    dataset = tmp_path / "damaged tapes"
    run(music, dataset)
    before, opened = find_shards(dataset), pq.ParquetFile

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def open_unreadable(*arguments: Any, **options: Any) -> pq.ParquetFile:
        file = opened(*arguments, **options)
        monkeypatch.setattr(file, "read", refuse)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", refuse if refused == "open_shard" else open_unreadable)
        with pytest.raises(InputError, match=r"latents-000000\.parquet: Input/output error$"):
            run(music, dataset)
    assert find_shards(dataset) == before
    assert run(music, dataset).done_before == 6


def test_changed_files_are_told_of_and_done_again_when_asked(music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    run(music, dataset)
    (music / "00001.wav").write_text("audio other")
    os.utime(music / "00002.wav", ns=(0, 0))
    outcome = run(music, dataset)
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (0, 6, 2)
    outcome = run(music, dataset, redo="content")
    assert (outcome.encoded, outcome.done_before, outcome.changed) == (1, 5, 0)
    outcome = run(music, dataset, redo="changed")
    assert (outcome.encoded, outcome.done_before) == (1, 5)
    assert run(music, dataset).changed == 0
    assert run(music, dataset, redo="all").encoded == 6
    assert len(content(dataset)["ok"]) == 6
    mean = next(row["mean"] for row in content(dataset)["ok"] if row["source"] == "00001.wav")
    assert mean == [float(torch.tensor(float(sum(b"audio other"))).half())] * 6


def test_all_are_done_again_but_for_what_cannot_be_read_now(music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(music.iterdir())))
    run(tmp_path / "list.txt", dataset)
    (music / "00001.wav").unlink()
    outcome = run(tmp_path / "list.txt", dataset, redo="all")
    assert (outcome.encoded, outcome.done_before) == (5, 1)
    assert len(content(dataset)["ok"]) == 6


def test_a_file_of_the_same_size_and_date_is_seen_by_its_content(music: Path, tmp_path: Path) -> None:
    run(music, tmp_path / "latents")
    before = (music / "00001.wav").stat().st_mtime_ns
    (music / "00001.wav").write_text("audio X")
    os.utime(music / "00001.wav", ns=(before, before))
    assert run(music, tmp_path / "latents", redo="changed").encoded == 0
    assert run(music, tmp_path / "latents", redo="content").encoded == 1


def test_a_recording_of_the_same_name_elsewhere_is_another(music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    run(music, dataset)
    other = tmp_path / "other"
    other.mkdir()
    (other / "00001.wav").write_text("audio 1")  # to the byte the same, and yet a file of its own
    (other / "00002.wav").write_text("audio of another")
    assert run(other, dataset).encoded == 2
    roots = [row["root"] for row in content(dataset)["ok"] if row["source"] == "00001.wav"]
    assert sorted(roots) == [str(music), str(other)]


def test_a_recording_in_an_archive_that_is_still_there_was_not_moved(music: Path, tmp_path: Path) -> None:
    def encode_members(recordings: Sequence[Recording]) -> Iterator[Row]:
        for one in recordings:
            assert one.member is not None
            facts = {"size": one.member.size, "mtime_ns": one.member.mtime_ns}
            facts["sha256"] = hashlib.sha256((music / "00001.wav").read_bytes()).hexdigest()
            mean = torch.zeros(1, 2, 3)
            yield Row(one.source, one.root, **facts, sample_rate=8000, samples=3, level_db=-1.0, mean=mean)

    def done(archive: Path, **options: Any) -> tuple[int, int]:
        recordings, dataset = find_recordings([archive]), tmp_path / "latents"
        outcome = encode_dataset(recordings, dataset, SETTINGS, encode_members, **options)
        return outcome.encoded, outcome.done_before

    archives = [tmp_path / name / "x.tar" for name in ("one", "two", "three")]
    for archive in archives:
        archive.parent.mkdir()
        with tarfile.open(archive, "w") as tar:
            tar.add(music / "00001.wav", "1.wav")
    assert done(archives[0]) == done(archives[1]) == (1, 0)
    assert done(archives[1], redo="all") == (1, 0)
    assert {row["root"] for row in content(tmp_path / "latents")["ok"]} == {str(one.parent) for one in archives[:2]}
    archives[0].unlink()
    assert done(archives[2]) == (0, 1)


def test_a_folder_that_moved_is_known_again_by_its_content(music: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "latents"
    run(music, dataset)
    moved = music.rename(tmp_path / "moved")
    (moved / "00001.wav").write_text("audio X")  # as long as before
    outcome = run(moved, dataset)
    assert (outcome.encoded, outcome.done_before) == (1, 5)


def test_a_file_is_known_again_whatever_folder_was_given(music: Path, tmp_path: Path) -> None:
    run(music, tmp_path / "latents")
    other = make_music(tmp_path / "music2", 2)
    recordings = find_recordings([music, other])
    assert recordings[1].source == "music/00001.wav"
    outcome = encode_dataset(recordings, tmp_path / "latents", SETTINGS, encode)
    assert (outcome.encoded, outcome.done_before) == (1, 6)


def test_rows_of_recordings_that_are_not_given_stay(music: Path, tmp_path: Path) -> None:
    run(music, tmp_path / "latents")
    expected = content(tmp_path / "latents")
    run(music / "00001.wav", tmp_path / "latents", redo="all")
    rows = content(tmp_path / "latents")
    assert sorted(row["source"] for row in rows["ok"]) == [row["source"] for row in expected["ok"]]
    assert rows["failed"] == expected["failed"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"checkpoint": "f" * 16}, "holds latents of checkpoint 0123456789abcdef, this one is ffffffffffffffff"),
        ({"precision": "float32"}, "was made with precision float16: use the same"),
        ({"logvar": True}, "was made with logvar False: use the same"),
    ],
)
def test_a_dataset_has_one_model_and_one_form(music: Path, tmp_path: Path, changed: Any, reason: str) -> None:
    run(music, tmp_path / "latents")
    settings = DatasetSettings(**(vars(SETTINGS) | changed))
    with pytest.raises(InputError, match=reason):
        encode_dataset(find_recordings([music]), tmp_path / "latents", settings, encode)


def test_a_dataset_that_cannot_be_written_is_refused(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: is a file, not a folder"):
        run(music, tmp_path / "file")
    with pytest.raises(InputError, match="below: can't be written: Not a directory"):
        run(music, tmp_path / "file" / "below")

    def read_only(lock: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    with pytest.raises(InputError, match="latents: can't be written: Read-only file system"):
        run(music, tmp_path / "latents")


def test_a_second_run_on_one_dataset_is_refused(music: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "latents"), pytest.raises(InputError, match="latents: another process is writing to it"):
        run(music, tmp_path / "latents")
    assert run(music, tmp_path / "latents").encoded == 6
