"""Processes that decode, and die in the middle of it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import pytest
from conftest import noise, stereo
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.encoding import pipeline, workers
from audiovae.encoding.cluster import Actors
from audiovae.encoding.inputs import Recording, find_recordings
from audiovae.encoding.pipeline import encode_recordings, settings_of
from audiovae.encoding.preparation import Analysis, Piece, RecordingFacts

PIECE_LATENT_FRAMES = 24


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    return load(save_tiny(tmp_path / "tiny.safetensors"), device="cpu")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Recording]:
    """One of nine pieces, one of two."""
    Audio(noise(samples=850_000), 44_100).save(tmp_path / "long.flac")
    Audio(stereo(samples=80_000), 22_050).save(tmp_path / "short.wav")
    return find_recordings([tmp_path / "long.flac", tmp_path / "short.wav"])


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little audio makes many pieces, and a process is never far ahead."""
    monkeypatch.setattr(pipeline, "PIECE_LATENT_FRAMES", PIECE_LATENT_FRAMES)
    monkeypatch.setattr(workers, "MESSAGES_AHEAD", 1)


def kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def test_a_worker_that_dies_is_replaced_and_its_recording_is_whole(codec: Codec, recordings: list[Recording]) -> None:
    analysis = Analysis(codec.config, 8, PIECE_LATENT_FRAMES)
    told: list[str] = []
    last: workers.Message | None = None
    for index, message in workers.prepared(recordings, analysis, workers=1):
        if index == 0:
            told.append(type(message).__name__)
            if len(told) == 2:
                kill_children()
        else:
            last = message
    assert told.index("Restart") in (2, 3, 4)  # some pieces were on their way
    assert told[told.index("Restart") + 1 :] == ["Piece"] * 9 + ["RecordingFacts"]
    assert isinstance(last, RecordingFacts) and last.error is None


def test_a_recording_that_kills_two_workers_is_a_failure(
    codec: Codec, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_on = workers.prepared

    def deadly(*arguments: object, **options: object):
        for index, message in handed_on(*arguments, **options):  # type: ignore[arg-type]
            if index == 0 and isinstance(message, Piece):
                kill_children()
            yield index, message

    monkeypatch.setattr("audiovae.encoding.pipeline.prepared", deadly)
    first, second = encode_recordings(codec, recordings, settings_of(codec), workers=1)
    assert first.error == "the process that decoded it died, twice (signal 9)" and first.mean is None
    assert second.error is None


def decoding_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "audiovae-decoding"]


def wait_for_the_end_of_decoding() -> None:
    """Of itself: as when the interpreter ends, which waits for processes and asks nobody to end them."""
    limit = time.monotonic() + 30
    while decoding_threads() or multiprocessing.active_children():
        assert time.monotonic() < limit, "decoding goes on"
        time.sleep(0.05)


def test_an_interrupt_while_decoding_starts_ends_it(
    codec: Codec, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    class InterruptedThread(threading.Thread):
        def start(self) -> None:
            super().start()
            while not multiprocessing.active_children():
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "Thread", InterruptedThread)
    with pytest.raises(KeyboardInterrupt):
        next(workers.prepared(recordings, Analysis(codec.config, 8, PIECE_LATENT_FRAMES), workers=2))
    assert not decoding_threads() and not multiprocessing.active_children()


def test_decoding_ends_though_a_second_interrupt_keeps_anyone_from_waiting(
    codec: Codec, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    class InterruptedThread(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "Thread", InterruptedThread)
    messages = workers.prepared(recordings, Analysis(codec.config, 8, PIECE_LATENT_FRAMES), workers=2)
    next(messages)
    time.sleep(0.5)  # more messages than there is room for
    with pytest.raises(KeyboardInterrupt):
        messages.close()
    wait_for_the_end_of_decoding()


class Stopped(Exception):
    """What a signal's handler raises here: a KeyboardInterrupt that came late would end all tests."""


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_an_interrupt_that_wakes_another_thread_is_answered_too(codec: Codec, recordings: list[Recording]) -> None:
    """As one that comes just before the wait: it leaves its mark, and nobody is woken."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    pool = workers._Pool(recordings, Analysis(codec.config, 8, PIECE_LATENT_FRAMES), "", workers=0)
    answered = threading.Event()

    def mark() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        answered.wait(timeout=30)
        pool.messages.put("much later")

    usual, other = signal.signal(signal.SIGUSR1, stop), threading.Thread(target=mark)
    try:
        with pytest.raises(Stopped):
            other.start()
            pool.next_message()
        assert pool.messages.empty()
    finally:
        answered.set()
        other.join()
        signal.signal(signal.SIGUSR1, usual)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be made to stand still")
def test_a_worker_that_stands_still_in_the_middle_of_a_message_is_ended(
    codec: Codec, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, standing = workers._Worker.receive, threading.Event()
    calls = iter(range(9))

    def receive_two(self: workers._Worker) -> Piece | RecordingFacts:
        if next(calls) < 2:
            return receive(self)
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        standing.set()
        while True:
            self.pipe.recv_bytes()  # the rest of what it had sent, and then nothing

    monkeypatch.setattr(workers._Worker, "receive", receive_two)
    messages = workers.prepared(recordings, Analysis(codec.config, 8, PIECE_LATENT_FRAMES), workers=1)
    next(messages)
    assert standing.wait(timeout=30)
    messages.close()
    assert not decoding_threads() and not multiprocessing.active_children()


LEFT_OPEN = """
import sys
from pathlib import Path
from audiovae.codec import load
from audiovae.encoding import pipeline, workers
from audiovae.encoding.inputs import find_recordings

if __name__ == "__main__":
    workers.MESSAGES_AHEAD = 1
    pipeline.PIECE_LATENT_FRAMES = 24
    codec = load(Path(sys.argv[1]), device="cpu")
    recordings = find_recordings([Path(name) for name in sys.argv[2:]])
    rows = pipeline.encode_recordings(codec, recordings * 9, pipeline.settings_of(codec), workers=1)
    keep = [next(rows)], rows
"""


def test_rows_that_nobody_asked_for_do_not_keep_the_interpreter(recordings: list[Recording], tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "tiny.safetensors")
    (tmp_path / "script.py").write_text(LEFT_OPEN)
    words = [sys.executable, tmp_path / "script.py", checkpoint, *(one.path for one in recordings)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(list(map(str, words)), env=environment, check=True, timeout=120, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("nodes", "gpus", "most", "cpus"),
    [
        ([{"CPU": 4.0}, {"CPU": 2.0}], 0.0, 6, 1),
        ([{"CPU": 16.0, "GPU": 1.0}], 1.0, 1, 15),
        ([{"CPU": 17.0, "GPU": 8.0}, {"CPU": 64.0}], 1.0, 8, 2),  # a node without a GPU has no say
        ([{"CPU": 9.0, "GPU": 2.0}, {"CPU": 33.0, "GPU": 2.0}], 1.0, 4, 4),  # an actor must fit on every node
        ([{"CPU": 8.0, "GPU": 1.0}], 0.5, 2, 3),
        ([{"CPU": 1.0, "GPU": 1.0}], 1.0, 1, 1),
        ([{"CPU": 8.0}], 1.0, 1, 1),  # none has one: Ray says so, or waits for a node that will
    ],
)
def test_a_cluster_s_room_is_shared_out(nodes: list[dict[str, float]], gpus: float, most: int, cpus: int) -> None:
    actors = Actors.for_nodes(nodes, gpus)
    assert (actors.most, actors.cpus, actors.workers) == (most, cpus, cpus - 1)
