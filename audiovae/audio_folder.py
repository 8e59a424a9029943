"""Which files of a folder are audio."""

import logging
import os
from pathlib import Path

import soundfile

from audiovae.errors import InputError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    f".{name.lower()}"
    for name in (*soundfile.available_formats(), "aif", "oga", "opus")
    if name not in ("RAW", "MAT4", "MAT5")
)
"""File name endings that are taken for audio, in lower case."""


def find_audio(folder: Path) -> list[Path]:
    """All audio files below a folder, by suffix, sorted; hidden files and folders are left out.

    A link to a file that is gone is among them, and what can't be looked at, so that whoever reads it can say so.

    Links to folders are not followed, so a loop of links can't trap it. A folder in it that can't be read is warned
    of. Raises InputError if it is no folder itself, or can't be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        reason = f"{error.filename}: can't be read: {error.strerror}"
        if Path(error.filename) == folder:
            raise InputError(reason) from error
        logger.warning(f"{reason}; what is in it is left out")

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and _is_file(path)]
    return sorted(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() or (path.is_symlink() and not path.exists())
    except OSError:  # of a folder that may be listed, but not entered
        return True
