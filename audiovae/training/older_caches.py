"""Caches of an audio folder's earlier states: what has changed since, and their removal once there is a newer one."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from audiovae.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Files = dict[str, list[int]]
"""Size in bytes and time of the last change, in ns, of a folder's audio files, by their path in it."""


def files_of(folder: Path, paths: list[Path]) -> Files:
    """What a cache of these files of a folder depends on. Raises InputError for one that can't be looked at."""
    files: Files = {}
    for path in paths:
        try:
            status = path.stat() if path.exists() else path.lstat()
        except OSError as error:
            raise InputError(f"{path}: can't be read: {error.strerror}") from error
        files[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return files


@dataclass(frozen=True)
class Changes:
    """What became of a folder's files."""

    changed: int = 0
    added: int = 0
    removed: int = 0

    def text(self) -> str:
        """In words."""
        if not (self.changed or self.added or self.removed):
            return "no size or date, but content or this package's version changed"
        return f"{self.changed} changed, {self.added} added, {self.removed} removed"


@dataclass
class OlderCaches:
    """Those in a cache folder that were made of the same folder, at the same rate, in the same format."""

    indexes: list[Path] = field(default_factory=list)
    """The newest first."""
    newest: Files = field(default_factory=dict)

    def changes(self, files: Mapping[str, list[int]]) -> Changes:
        """Since the newest of them."""
        both = files.keys() & self.newest.keys()
        return Changes(
            changed=sum(files[name] != self.newest[name] for name in both),
            added=len(files) - len(both),
            removed=len(self.newest) - len(both),
        )

    def remove(self) -> None:
        """Removes audio first: it would not be found without its index. What is in use stays, for a later run."""
        for index in self.indexes:
            audio = index.with_suffix(".int16")
            with suppress(OSError):
                if audio.exists():
                    _lock(audio, alone=True).close()
                audio.unlink(missing_ok=True)  # on Windows it is this that fails
                index.unlink()


def in_use(audio: Path) -> BinaryIO:
    """A cache's audio, opened: until it is closed, no process removes it. Raises InputError if one just has."""
    try:
        return _lock(audio, alone=False)
    except OSError as error:
        raise InputError(
            f"{audio}: {error.strerror}: another process removed it, run the same command again"
        ) from error


def _lock(audio: Path, *, alone: bool) -> BinaryIO:
    """Raises BlockingIOError if it is wanted alone and others have it. Some file systems have no locks."""
    file = audio.open("rb")
    try:
        if fcntl:  # Windows removes no file that is open
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    except OSError:
        pass
    return file


def older_caches(cache_folder: Path, made_of: dict[str, Any], *, key: str) -> OlderCaches:
    """Finds caches whose index says that they were made of the same folder, except the one of this key."""
    found: list[tuple[int, Path, Files]] = []
    for index in cache_folder.glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(index.read_text(encoding="utf-8"))
            if index.stem != key and content["made_of"] == made_of:
                found.append((index.stat().st_mtime_ns, index, dict(content["files"])))
    found.sort(key=lambda one: one[:2], reverse=True)
    return OlderCaches([index for _, index, _ in found], found[0][2] if found else {})
