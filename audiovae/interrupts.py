"""Ctrl-C reaches every process of a terminal: how children are started so that only their parent answers it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C; this one is told afterwards. Windows, which can't, does without."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first child would start it, and that unblocks the signal
    came: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    # The mask is for the children; another thread of ours may still take the signal, hence the handler.
    usual = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number)) if is_main else None
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        if is_main:
            signal.signal(signal.SIGINT, usual)
    if came:
        raise KeyboardInterrupt
