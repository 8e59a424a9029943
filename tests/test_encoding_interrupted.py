"""Runs that are cut short at any moment: the next one makes what is missing, and nothing twice."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tone
from disk_faults import Faults, count_faults, die_at
from encoding_stand_in import content, make_music, run
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.encoding import writer
from audiovae.encoding.run import Outcome
from audiovae.errors import InputError
from audiovae.latent_dataset.shards import find_shards


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Eight files, the first and the sixth bad ones."""
    return make_music(tmp_path / "music")


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


def test_an_interrupt_while_the_disk_is_slow_keeps_what_is_encoded(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, write = threading.Event(), writer.write_shard

    def write_slowly(*arguments: Any) -> None:
        if not slow.is_set():
            slow.set()
            time.sleep(0.5)  # the second row is there, and waits
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        write(*arguments)

    monkeypatch.setattr(writer, "write_shard", write_slowly)
    with pytest.raises(KeyboardInterrupt):
        run(music, tmp_path / "latents", shard_bytes=1)
    assert {status: len(rows) for status, rows in content(tmp_path / "latents").items()} == {"ok": 1, "failed": 1}
    assert run(music, tmp_path / "latents").done == 8


ENCODE_SCRIPT = """
import sys
from pathlib import Path
from audiovae.codec import load
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.run import encode_dataset, local_encoder

def tell(outcome):
    print(outcome.encoded, flush=True)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    codec = load(folder / "tiny.safetensors", device="cpu")
    settings = settings_of(codec)
    encoder = local_encoder(codec, settings, workers=int(sys.argv[2]))
    recordings = find_recordings([folder / "music"])
    encode_dataset(recordings, folder / "latents", settings, encoder, shard_bytes=1, progress=tell)
"""


def start_encoding(folder: Path, *, workers: int) -> subprocess.Popen[str]:
    """An interpreter of its own that encodes a folder's music and prints how many it has."""
    (folder / "script.py").write_text(ENCODE_SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, str(folder / "script.py"), str(folder), str(workers)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)


def test_a_run_that_is_killed_leaves_no_process_and_no_lock(tmp_path: Path) -> None:
    """The whole of it, with real workers and a real kill -9."""
    (tmp_path / "music").mkdir()
    for index in range(30):
        Audio(tone(samples=40_000, frequency_hz=200.0 + index), 44_100).save(tmp_path / "music" / f"{index:02}.wav")
    save_tiny(tmp_path / "tiny.safetensors")
    with start_encoding(tmp_path, workers=1) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "3\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # ends only when no process holds the pipe: the worker is gone too
    before = len(find_shards(tmp_path / "latents"))
    assert 2 <= before < 30
    with start_encoding(tmp_path, workers=0) as process:
        said, _ = process.communicate()
    assert process.returncode == 0 and said.split()[-1] == str(30 - before)
    assert [row["source"] for row in content(tmp_path / "latents")["ok"]] == [f"{index:02}.wav" for index in range(30)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are counted in /proc")
def test_a_signal_to_the_whole_group_ends_a_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    Audio(tone(samples=4_000_000), 44_100).save(tmp_path / "music" / "a.wav")
    for index in range(30):
        (tmp_path / "music" / f"{index}.wav").symlink_to(tmp_path / "music" / "a.wav")
    words = ("encode", tmp_path / "music", "--out", tmp_path / "latents", "--workers", 2, "--device", "cpu")
    command = [sys.executable, "-m", "audiovae", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        threads = Path(f"/proc/{process.pid}/task")
        # A resource tracker and two decoders: the signal finds them as they start.
        while process.poll() is None and len(processes_of(threads)) < 3:
            os.sched_yield()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            _, told = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert (process.returncode, told) == (130, "audiovae: interrupted\n")


def processes_of(threads: Path) -> list[str]:
    """Children of all threads of a process."""
    children: list[str] = []
    for one in threads.glob("*/children"):
        with suppress(OSError):  # of a thread that has ended meanwhile
            children += one.read_text().split()
    return children
