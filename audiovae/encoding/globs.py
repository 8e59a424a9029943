"""Paths that match a pattern: as ``glob`` has it, but ** doesn't follow links to folders.

Accents match as they are read: a Mac's names may have them apart, and what is typed has them joined.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from unicodedata import normalize


def matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What matches the parts of a pattern below a folder. Only a part that begins with a dot matches what is hidden."""
    if not parts:
        yield folder
        return
    part, *rest = parts
    if not glob.has_magic(part):
        if os.path.lexists(folder / part):
            yield from matching(folder / part, rest)
        return
    if part == "**":
        yield from matching(folder, rest)
    for entry in _entries(folder):
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            if entry.is_dir(follow_symlinks=False):
                yield from matching(folder / entry.name, parts)
        elif fnmatch(normalize("NFC", entry.name), normalize("NFC", part)):
            yield from matching(folder / entry.name, rest)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # not a folder, or one that can't be read
        return []
