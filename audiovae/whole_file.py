"""Files that appear whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from audiovae.errors import InputError


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Gives the temporary file to write, in the same folder; it takes its place when the block ends without an error.

    Raises InputError if the path is taken and ``force`` is off, or the disk refuses: an older file then stays.
    """
    _refuse_taken(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _refuse_taken(path, force=force)  # another process may have been faster
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _refuse_taken(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a folder")
    if os.path.lexists(path) and not force:  # a link that leads nowhere is somebody's too
        raise InputError(f"{path}: exists already (use --force to overwrite)")
