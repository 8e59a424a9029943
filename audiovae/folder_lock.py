"""A folder that one process works in at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiovae.errors import InputError

LOCK = ".lock"
"""Name of the lock file; it may stay, and means nothing by itself."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder, made if missing, for this process alone; the system frees it however the process ends.

    Raises InputError if another process has it, or it can't be written.
    """
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file, not a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror}") from error
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(f"{folder}: another process is writing to it") from error
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
