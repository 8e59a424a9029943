"""Ctrl-C, and a batch system's signal to end, reach a whole group of processes: only their parent is to answer."""

import atexit
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children, resource_tracker
from multiprocessing.process import BaseProcess

_TO_ALL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_deaf: set[BaseProcess] = set()
"""Processes that see no such signals."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """What must not be cut in two: an interrupt that comes meanwhile is told afterwards.

    Windows, which can't, does without.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    usual = {number: signal.getsignal(number) for number in _TO_ALL if is_main}
    answered = {number: handler for number, handler in usual.items() if callable(handler)}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        for number in answered:  # another thread of ours may still take the signal
            signal.signal(number, lambda number, _frame: came.append(number))
        yield
    finally:
        for number, handler in answered.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    if came:
        signal.raise_signal(signal.Signals(came[0]))


@contextmanager
def handlers_kept() -> Iterator[None]:
    """For a library that would answer such signals itself: whoever did goes on to."""
    is_main = threading.current_thread() is threading.main_thread()
    usual = {number: signal.getsignal(number) for number in _TO_ALL if is_main}
    try:
        yield
    finally:
        for number, handler in usual.items():
            if handler is not None:  # None is one that Python knows nothing of
                signal.signal(number, handler)


@contextmanager
def children_deaf() -> Iterator[None]:
    """Processes started meanwhile never see such signals: whoever starts them ends them, by SIGKILL or by word."""
    resource_tracker.ensure_running()  # the first child would start it, and that unblocks the signals
    before = set(active_children())
    try:
        with interrupts_held():
            yield
    finally:
        _deaf.update(set(active_children()) - before)


@atexit.register
def _end_the_deaf() -> None:
    """Whatever became of those who were to end them: multiprocessing would ask them to end, and wait for ever."""
    for child in _deaf.intersection(active_children()):
        child.kill()
