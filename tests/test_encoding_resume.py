"""Runs that are cut short at any moment, and what the next run makes of what they left."""

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pytest
import torch
from conftest import tone

from audiovae.audio import Audio
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.resume import locked
from audiovae.encoding.run import Outcome, encode_dataset
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import DatasetSettings, Row
from audiovae.latent_dataset.shards import find_shards, open_shard

SETTINGS = DatasetSettings(checkpoint="0123456789abcdef", sample_rate=44_100, latent_hop_length=4096)
FEW_ROWS = 4
"""In a shard of these tests."""


def make_music(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / f"{index:05}.wav").write_text(f"audio {index}" if index % 5 else f"bad {index}")
    return folder


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Eight files that ``encode`` below takes for recordings, the first and the sixth for bad ones."""
    return make_music(tmp_path / "music", 8)


def encode(recordings: Sequence[Recording]) -> Iterator[Row]:
    """A stand-in for the model: the latents are the sum of the file's bytes, and bad files say so."""
    import hashlib

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
    row_bytes = 200 + 2 * 6
    options = {"shard_bytes": FEW_ROWS * row_bytes} | options
    return encode_dataset(find_recordings([music]), dataset, SETTINGS, encode, **options)


def content(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows in the order of the shards, encoded and failed ones apart."""
    rows = pa.concat_tables([open_shard(shard).read() for shard in find_shards(dataset)]).to_pylist()
    return {status: [row for row in rows if row["status"] == status] for status in ("ok", "failed")}


# --- interruptions ----------------------------------------------------------------------------------------------------


class Faults:
    """Counts every write, flush to disk, rename and deletion, and does ``strike`` in the middle of one of them."""

    def __init__(self, strike: Callable[[], None], at: int | None) -> None:
        self.strike, self.at, self.count = strike, at, 0

    def pass_by(self) -> bool:
        self.count += 1
        return self.count - 1 == self.at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        open_path = Path.open

        def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if ".tmp" not in path.name:
                return open_path(path, mode, *rest, **named)
            return io.BufferedWriter(_FaultyFile(self, path), 1500)  # so that a shard takes several writes

        patch.setattr(Path, "open", opened)
        for module, name in ((os, "replace"), (os, "fsync"), (os, "unlink")):
            patch.setattr(module, name, self._guarded(getattr(module, name)))

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            if self.pass_by():
                self.strike()
            return call(*arguments, **named)

        return guarded


class _FaultyFile(io.FileIO):
    def __init__(self, faults: Faults, path: Path) -> None:
        super().__init__(path, "wb")
        self.faults = faults

    def write(self, data: Any) -> int:
        if self.faults.pass_by():
            super().write(memoryview(data)[: len(data) // 2])  # half of it is on disk
            self.faults.strike()
        return super().write(data)


def die_at(fault: int | None, work: Callable[[], object]) -> bool:
    """Does the work in a child that is gone, as after kill -9, at its n-th touch of the disk; whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                Faults(lambda: os._exit(77), fault).install(patch)
                work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 77)
    return status == 77


def count_faults(work: Callable[[], object]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(lambda: None, None)
        faults.install(patch)
        work()
    return faults.count


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_wherever_a_run_is_killed_the_next_makes_the_same_dataset(music: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    faults = count_faults(lambda: run(music, whole))
    assert faults > 20
    expected = content(whole)
    assert [row["source"] for row in expected["ok"]] == [f"{n:05}.wav" for n in (1, 2, 3, 4, 6, 7)]
    for fault in range(faults):
        dataset = tmp_path / f"killed{fault}"
        assert die_at(fault, lambda dataset=dataset: run(music, dataset))
        kept = content(dataset)["ok"] if find_shards(dataset) else []
        outcome = run(music, dataset)
        assert (outcome.done_before, outcome.encoded) == (len(kept), 6 - len(kept)), fault
        assert content(dataset) == expected, fault
        assert not list(dataset.glob(".*.tmp"))
    assert not die_at(faults, lambda: run(music, tmp_path / "enough"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_wherever_a_run_that_redoes_is_killed_nothing_is_lost_or_doubled(music: Path, tmp_path: Path) -> None:
    def prepare(dataset: Path) -> None:
        run(music, dataset)

    def redo(dataset: Path) -> None:
        run(music, dataset, redo="changed")

    changed = {"00002.wav": "audio two", "00005.wav": "audio five", "00007.wav": "bad now"}
    datasets = [tmp_path / f"redone{index}" for index in range(100)]
    prepare(datasets[0])
    for dataset in datasets[1:]:
        dataset.mkdir()
        for shard in find_shards(datasets[0]):
            (dataset / shard.name).write_bytes(shard.read_bytes())
    for name, text in changed.items():
        (music / name).write_text(text)
    faults = count_faults(lambda: redo(datasets[0]))
    expected = {row["source"]: row for rows in content(datasets[0]).values() for row in rows}
    assert len(expected) == 8 and 20 < faults < 100
    for fault in range(faults):
        dataset = datasets[1 + fault]
        assert die_at(fault, lambda dataset=dataset: redo(dataset))
        redo(dataset)
        rows = [row for rows in content(dataset).values() for row in rows]
        assert len(rows) == 8, fault
        assert {row["source"]: row for row in rows} == expected, fault


def test_wherever_the_disk_is_full_the_run_says_so_and_the_next_goes_on(music: Path, tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = tmp_path / "whole"
    faults = count_faults(lambda: run(music, whole))
    expected = content(whole)
    for fault in range(faults):
        dataset = tmp_path / f"full{fault}"
        with pytest.MonkeyPatch.context() as patch:
            Faults(full, fault).install(patch)
            try:
                run(music, dataset)
            except (InputError, OSError) as error:
                assert "No space left" in str(error), fault
            else:
                # Only what tidies up may fail unheard.
                assert content(dataset) == expected, fault
        run(music, dataset)
        assert content(dataset) == expected, fault


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_thousand_kills(tmp_path: Path) -> None:
    """Sixty files, ten shards; each run is killed at a point drawn at random, and those after it until one ends."""
    music = make_music(tmp_path / "music", 60)
    faults = count_faults(lambda: run(music, tmp_path / "whole"))
    expected = content(tmp_path / "whole")
    random = torch.Generator().manual_seed(0)
    kills, number = 0, 0
    while kills < 1000:
        dataset = tmp_path / f"dataset{number}"
        number += 1
        while die_at(int(torch.randint(faults, (), generator=random)), lambda dataset=dataset: run(music, dataset)):
            kills += 1
        assert content(dataset) == expected


def test_an_interrupt_keeps_what_is_encoded(music: Path, tmp_path: Path) -> None:
    def interrupted(outcome: Outcome) -> None:
        if outcome.encoded == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(music, tmp_path / "latents", progress=interrupted, shard_bytes=1 << 30)
    assert len(content(tmp_path / "latents")["ok"]) == 5
    assert run(music, tmp_path / "latents").encoded == 1


def test_a_run_that_is_killed_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    """The whole of it, with real workers and a real kill -9."""
    music = tmp_path / "music"
    music.mkdir()
    for index in range(30):
        Audio(tone(samples=40_000, frequency_hz=200.0 + index), 44_100).save(music / f"{index:02}.wav")
    code = f"""
import sys
from tiny_codec import save_tiny
from pathlib import Path
from audiovae.codec import load
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder

def tell(outcome):
    print(outcome.encoded, flush=True)

if __name__ == "__main__":
    codec = load(save_tiny(Path({str(tmp_path / "tiny.safetensors")!r})), device="cpu")
    settings = settings_of(codec)
    encoder = local_encoder(codec, settings, workers=int(sys.argv[1]))
    encode_dataset(find_recordings([{str(music)!r}]), Path({str(tmp_path / "latents")!r}), settings, encoder,
                   shard_bytes=1, progress=tell)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    with subprocess.Popen([sys.executable, script, "1"], stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "3\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends only when no process holds the pipe: the worker is gone too
    before = len(find_shards(tmp_path / "latents"))
    assert 2 <= before < 30
    (tmp_path / "tiny.safetensors").unlink()
    finished = subprocess.run(
        [sys.executable, script, "0"], env=environment, check=True, capture_output=True, text=True
    )
    assert finished.stdout.split()[-1] == str(30 - before)
    assert [row["source"] for row in content(tmp_path / "latents")["ok"]] == [f"{index:02}.wav" for index in range(30)]


def test_a_second_run_on_one_dataset_is_refused(music: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "latents"), pytest.raises(InputError, match="latents: another process is writing to it"):
        run(music, tmp_path / "latents")
    assert run(music, tmp_path / "latents").encoded == 6


# --- what the disk holds ----------------------------------------------------------------------------------------------


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
    assert outcome.damaged == [last] and outcome.encoded > 0
    assert content(dataset) == expected
    assert (dataset / f".damaged-{last.name}").exists()


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
    with pytest.raises(InputError, match="below: can't be made: Not a directory"):
        run(music, tmp_path / "file" / "below")

    def read_only(lock: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "acquire", read_only)
    with pytest.raises(InputError, match="latents: can't be written: Read-only file system"):
        run(music, tmp_path / "latents")
