"""Processes that decode: each has one recording in hand, and what becomes of it comes back piece by piece.

The package's own pool, and not concurrent.futures: a recording of hours must come in pieces and not as one result,
and when a decoder crashes, it must be known on which recording.
"""

import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from queue import Empty, Full, Queue
from tempfile import TemporaryDirectory
from threading import Event, Thread, main_thread
from typing import Any

import torch

from audiovae.encoding.inputs import Recording
from audiovae.encoding.preparation import Analysis, Piece, RecordingFacts, prepare
from audiovae.interrupts import children_deaf

MESSAGES_AHEAD = 32
"""Pieces (9 MB at most each) that wait for the model."""
RECORDINGS_AHEAD = 4096
"""How far a recording may be decoded before its turn: the rows are written in order, and wait in memory."""
MOST_ON_WINDOWS = 60
"""Processes: up to Python 3.12, no more can be waited for at once there."""
LONGEST_WAIT_SECONDS = 0.2
"""An interrupt that comes just before a thread waits doesn't wake it: it is answered when the wait has ended."""


class Restart:
    """The process that had a recording died: its pieces so far are void, it is decoded again."""


Message = Piece | RecordingFacts | Restart


def prepared(
    recordings: Sequence[Recording], analysis: Analysis, *, workers: int
) -> Generator[tuple[int, Message], None, None]:
    """What ``prepare`` says of each recording, with its number; recordings overlap if there are several workers.

    With 0 workers, all is done in this process. A recording whose process dies twice gets facts that say so.
    """
    if not workers:
        for index, recording in enumerate(recordings):
            for message in prepare(recording, analysis):
                yield index, message
        return
    workers = min(workers, len(recordings), MOST_ON_WINDOWS if sys.platform == "win32" else workers)
    with TemporaryDirectory(prefix="audiovae-") as folder:  # removed even if the processes are killed
        pool = _Pool(recordings, analysis, folder, workers=workers)
        thread = Thread(target=pool.run, name="audiovae-decoding", daemon=True)
        try:
            thread.start()
            while (message := pool.next_message()) is not None:
                if isinstance(message, BaseException):
                    raise message
                yield message
        finally:
            pool.stop()
            while thread.is_alive():
                thread.join(LONGEST_WAIT_SECONDS)


class _Worker:
    """A process, and the recording it has in hand."""

    def __init__(self, analysis: Analysis, folder: str) -> None:
        context = get_context("spawn")  # a fork of a process with torch's threads may hang
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(end, analysis, folder), daemon=True)
        with children_deaf():
            self.process.start()
        end.close()
        self.index: int | None = None

    def start(self, index: int, recording: Recording) -> None:
        self.index = index
        with suppress(OSError):  # one that died just now is noticed when it is listened to
            self.pipe.send(recording)

    def receive(self) -> Piece | RecordingFacts:
        """Raises EOFError or OSError if the process has died."""
        message = self.pipe.recv()
        if isinstance(message, RecordingFacts):
            return message
        shape, first, last = message
        waveform = torch.empty(shape)
        self.pipe.recv_bytes_into(memoryview(waveform.numpy()).cast("B"))  # pyright: ignore[reportArgumentType]
        return Piece(waveform, first, last)

    def end(self) -> str:
        """How the process ended."""
        self.pipe.close()
        self.process.kill() if self.process.is_alive() else None
        self.process.join()
        code = self.process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit {code}"


class _Pool:
    """Hands recordings to workers and collects what they say; runs in a thread of its own.

    After ``stop``, or when the interpreter ends, nobody need listen any more: the thread ends, and its workers with it.
    """

    def __init__(self, recordings: Sequence[Recording], analysis: Analysis, folder: str, *, workers: int) -> None:
        self.recordings, self.analysis, self.folder = recordings, analysis, folder
        self.messages: Queue[Any] = Queue(maxsize=MESSAGES_AHEAD)
        self.told_to_stop = Event()
        self.workers: list[_Worker] = []
        self.count, self.next = workers, 0
        self.open: set[int] = set()
        self.died: set[int] = set()

    def next_message(self) -> Any:
        """Waits for the next of ``messages``: a number and what is said of it, an error, or None at the end."""
        while True:
            with suppress(Empty):
                return self.messages.get(timeout=LONGEST_WAIT_SECONDS)

    def stop(self) -> None:
        """Ends workers in the middle of anything, and with them whoever waits for their words."""
        self.told_to_stop.set()
        for worker in list(self.workers):
            worker.process.kill()

    @property
    def stopped(self) -> bool:
        """Whether all that is left to do is to end."""
        return self.told_to_stop.is_set() or not main_thread().is_alive()

    def run(self) -> None:
        last: BaseException | None = None
        try:
            while len(self.workers) < self.count and not self.stopped:
                self.workers.append(_Worker(self.analysis, self.folder))
            while not self.stopped:
                self._hand_out()
                if not self.open:
                    break
                self._collect()
        except BaseException as error:  # told to the thread that waits for the messages
            last = error
        finally:
            for worker in self.workers:
                worker.end()
            self._tell(last)

    def _tell(self, message: Any) -> None:
        while not self.stopped:
            with suppress(Full):
                return self.messages.put(message, timeout=LONGEST_WAIT_SECONDS)

    def _hand_out(self) -> None:
        for worker in self.workers:
            far = self.next - min(self.open, default=self.next) >= RECORDINGS_AHEAD
            if worker.index is None and self.next < len(self.recordings) and not far:
                self.open.add(self.next)
                worker.start(self.next, self.recordings[self.next])
                self.next += 1

    def _collect(self) -> None:
        busy: dict[Any, int] = {one.pipe: place for place, one in enumerate(self.workers) if one.index is not None}
        for pipe in wait(list(busy), timeout=0.5):
            place = busy[pipe]
            worker = self.workers[place]
            index = worker.index
            assert index is not None
            try:
                message: Message = worker.receive()
            except (EOFError, OSError):
                if self.stopped:
                    return
                message = self._replace(place, index)
            if isinstance(message, RecordingFacts):
                self.workers[place].index = None
                self.open.discard(index)
            self._tell((index, message))
            if self.stopped:
                return

    def _replace(self, place: int, index: int) -> Message:
        """A new process; the recording has a second try, in case it wasn't what killed the first."""
        how = self.workers[place].end()
        self.workers[place] = _Worker(self.analysis, self.folder)
        if index in self.died:
            return RecordingFacts(error=f"the process that decoded it died, twice ({how})")
        self.died.add(index)
        self.workers[place].start(index, self.recordings[index])
        return Restart()


def _work(pipe: Connection, analysis: Analysis, folder: str) -> None:
    """The process: recordings in, pieces and facts out, until the other end is closed."""
    tempfile.tempdir = folder  # of the first process, which removes it: this one may be killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; only the first answers it
    torch.set_num_threads(1)
    with suppress(EOFError, OSError):
        while True:
            with closing(prepare(pipe.recv(), analysis)) as messages:  # pyright: ignore[reportArgumentType]
                for message in messages:
                    if isinstance(message, RecordingFacts):
                        pipe.send(message)
                    else:
                        pipe.send((tuple(message.waveform.shape), message.first, message.last))
                        pipe.send_bytes(memoryview(message.waveform.contiguous().numpy()).cast("B"))
