"""Files that appear whole or not at all."""

import contextlib
import functools
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from audiovae.errors import InputError

TEMPORARY = ".audiovae-"
"""How names of temporary folders begin; twelve hexadecimal digits follow."""
LONGEST_NAME_BYTES = 255
ABANDONED_AFTER_SECONDS = 12 * 3600
"""A temporary folder that nothing was written to for so long was left by a process that was killed."""
_NOT_ON_WINDOWS = re.compile(r'[<>:"/\\|?*\x00-\x1f\ud800-\udfff]')
_DEVICES_OF_WINDOWS = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\.|$)", re.IGNORECASE)


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yields a temporary file in the same folder, which takes the path's place if the block ends without an error.

    Raises InputError if the path is taken and ``force`` is off, or the disk refuses: an older file then stays.
    """
    refuse_taken(path, force=force)
    temporary = path.with_name(name_that_fits(f".{path.name}", f".{uuid.uuid4().hex[:12]}.tmp"))
    try:
        yield temporary
        refuse_taken(path, force=force)  # another process may have been faster
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder in this one, so on the same disk, for what isn't whole yet; it is removed at the end.

    What killed processes left there is removed too: it may be gigabytes. Raises OSError if the disk refuses.
    """
    _remove_abandoned(folder)
    # It has a name before it is there, so that an interrupt finds it whenever it comes.
    temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex[:12]}"
    try:
        temporary.mkdir()  # for the owner alone it would, on Windows, hand that on to all that moves out of it
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@functools.cache
def _remove_abandoned(folder: Path) -> None:
    """Once in each process: to look through a folder of ten thousand files takes a while."""
    for left in folder.glob(TEMPORARY + "[0-9a-f]" * 12):
        with contextlib.suppress(OSError):  # its process ended it just now, or it is another user's
            newest = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - newest > ABANDONED_AFTER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def refuse_taken(path: Path, *, force: bool) -> None:
    """Raises InputError where a file can't be written: over a folder, or without ``force`` over another file."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder")
    if os.path.lexists(path) and not force:  # a link that leads nowhere is somebody's too
        raise InputError(f"{path}: exists already (use --force to overwrite)")


def name_that_fits(name: str, end: str) -> str:
    """A file's name with this end to it, shortened where no disk would take it."""
    while len(os.fsencode(name + end)) > LONGEST_NAME_BYTES:
        name = name[:-1]
    return name + end


def name_for_windows(name: str) -> str:
    """A name from another system, without what Windows refuses there, or takes for a drive, a folder or a device."""
    name = _NOT_ON_WINDOWS.sub("_", name).rstrip(". ") or "_"
    return f"_{name}" if _DEVICES_OF_WINDOWS.match(name) else name
