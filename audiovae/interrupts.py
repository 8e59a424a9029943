"""Ctrl-C, and a batch system's signal to end, reach a whole group of processes: only their parent is to answer."""

import atexit
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

TO_ALL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Windows has no SIGHUP; its SIGBREAK is Ctrl-Break, and all that one program there can send another."""
_deaf: set[BaseProcess] = set()
"""Processes that see no such signals."""


@contextmanager
def handlers_kept() -> Iterator[dict[int, Any]]:
    """Yields the handlers of such signals, and restores them; in other threads, which may set none, an empty one."""
    is_main = threading.current_thread() is threading.main_thread()
    usual = {number: signal.getsignal(number) for number in TO_ALL if is_main}
    try:
        yield usual
    finally:
        for number, handler in usual.items():
            if handler is not None:  # None is one that Python knows nothing of
                signal.signal(number, handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """For what must not be cut in two: an interrupt that comes meanwhile is raised afterwards.

    Windows can't mask signals: there nothing is held.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, TO_ALL)
    try:
        with handlers_kept() as usual:
            for number in (number for number, handler in usual.items() if callable(handler)):
                signal.signal(number, lambda number, _frame: came.append(number))  # another thread may still take it
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    if came:
        signal.raise_signal(signal.Signals(came[0]))


@contextmanager
def children_deaf() -> Iterator[None]:
    """Processes started in the block never see such signals: whoever starts them ends them, by SIGKILL or a message.

    On Windows they do see Ctrl-C until they ignore it themselves.
    """
    if hasattr(signal, "pthread_sigmask"):  # Windows has no resource tracker either, and can't start one
        resource_tracker.ensure_running()  # the first child would start it, and that unblocks the signals
    before = set(active_children())
    try:
        with interrupts_held():
            yield
    finally:
        _deaf.update(set(active_children()) - before)


@atexit.register
def _end_the_deaf() -> None:
    """Kills those that are still there: multiprocessing would send a signal that they never see, and wait for ever."""
    for child in _deaf.intersection(active_children()):
        child.kill()
