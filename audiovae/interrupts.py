"""Ctrl-C, and a batch system's signal to end, reach a whole group of processes: only their parent is to answer."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_TO_ALL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes started meanwhile never see such signals: whoever starts them ends them, by SIGKILL or by word.

    This one is told afterwards. Windows, which can't, does without.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # the first child would start it, and that unblocks the signal
    came: list[int] = []
    answered = [number for number in _TO_ALL if callable(signal.getsignal(number))]
    is_main = threading.current_thread() is threading.main_thread()
    # The mask is for the children; another thread of ours may still take the signal, hence the handlers.
    hold = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in answered * is_main}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for number, usual in hold.items():
            signal.signal(number, usual)
    if came:
        signal.raise_signal(signal.Signals(came[0]))
