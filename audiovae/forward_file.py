"""Where soundfile needs care: names, MP3 that is read in pieces, and the words that its decoder prints on its own."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile


def name_to_open(path: Path) -> str | bytes:
    """As bytes, which may be no text; but as text on Windows, where libsndfile takes bytes for the code page's."""
    return str(path) if sys.platform == "win32" else os.fsencode(path)


class Forward(soundfile.SoundFile):
    """Is read onwards only: soundfile's seek after each read loses MP3's bit reservoir, which is heard as glitches."""

    def __init__(self, path: Path) -> None:
        with quiet_mp3(path.suffix[1:].upper()):
            super().__init__(name_to_open(path))

    def seekable(self) -> bool:
        """No, whatever the file."""
        return False

    def read(self, *arguments: Any, **options: Any) -> np.ndarray:
        """The next samples."""
        with quiet_mp3(self.format):
            return super().read(*arguments, **options)


_MUTED = threading.Lock()


@contextmanager
def quiet_mp3(format: str) -> Iterator[None]:
    """Keeps libmpg123's words about damage off stderr, where it writes behind Python's back: our errors tell of it."""
    if format != "MP3" or not _has_stderr():
        yield
        return
    with _MUTED, open(os.devnull, "wb") as nowhere:
        stderr = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _has_stderr() -> bool:
    """A Windows program without a console (pythonw) has none."""
    try:
        os.fstat(2)
    except OSError:
        return False
    return True
