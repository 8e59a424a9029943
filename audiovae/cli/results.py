"""A folder of results that appears whole or not at all; or, where that would be hours, file by file."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from audiovae.errors import InputError
from audiovae.folder_lock import LOCK, locked
from audiovae.interrupts import interrupts_held
from audiovae.whole_file import temporary_folder, whole_file

UNFINISHED = ".audiovae-unfinished.json"
"""Lies beside results that are made one by one, and says how: only a run that makes the same may go on with them."""


def check_folder(folder: Path, names: Sequence[str], *, force: bool) -> None:
    """Raises InputError if results of these names (with folders, perhaps) can't go there. Changes nothing."""
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        what = "a file, not a folder" if existing.exists() else "a link that leads nowhere"
        raise InputError(f"{folder}: {'is' if existing == folder else f'{existing} is'} {what}")
    for name in names:
        target = folder / name
        between = list(target.relative_to(folder).parents)[:-1]
        if blocked := next((folder / part for part in between if (folder / part).is_file()), None):
            raise InputError(f"{blocked}: is a file, a folder is to be made there")
        if target.is_dir():
            raise InputError(f"{target}: is a folder, a file is to be written there")
        if os.path.lexists(target) and not force:
            raise InputError(f"{folder}: holds results already, such as {name} (use --force to overwrite)")


@contextmanager
def result_folder(folder: Path, names: Sequence[str], *, force: bool) -> Iterator[Path]:
    """Yields a temporary folder in which files of these names are made; at the end of the block they move to
    ``folder``, all of them. Other files in ``folder`` are left alone. Raises InputError like ``check_folder``.
    """
    check_folder(folder, names, force=force)
    results = folder
    try:
        # In the folder itself if there is one: elsewhere might be another disk.
        with temporary_folder(_nearest_existing(folder)) as temporary:
            results = temporary / "results"
            results.mkdir()
            yield results
            check_folder(folder, names, force=force)  # another process may have been faster
            with interrupts_held():
                _move(results, folder, names)
    except InputError as error:
        raise InputError(str(error).replace(str(results), str(folder))) from error
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror or error}") from error


@contextmanager
def growing_folder(folder: Path, names: Sequence[str], made_with: str, *, force: bool) -> Iterator[list[str]]:
    """Yields those of these files that are still to be made in ``folder``, each of them whole, in its place.

    What an earlier block, which was ended early, made in the same way (``made_with``) stays and isn't made again.
    Raises InputError like ``check_folder``, if another process is at it, and for an interrupt if there is something to
    go on with.
    """
    check_folder(folder, [], force=force)
    there = _nearest_existing(folder)
    with locked(folder):
        try:
            with _growing(folder, names, made_with, force=force) as left:
                yield left
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            if not _has_any(folder, names):
                _remove_leftovers(folder, there)


@contextmanager
def _growing(folder: Path, names: Sequence[str], made_with: str, *, force: bool) -> Iterator[list[str]]:
    mark = folder / UNFINISHED
    goes_on = mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") == made_with
    left = [name for name in names if not (goes_on and _is_younger(folder / name, mark))]
    check_folder(folder, left, force=force)
    try:
        if len(left) == len(names):
            with whole_file(mark, force=True) as temporary:
                temporary.write_text(made_with, encoding="utf-8")
        yield left
        mark.unlink()
    except OSError as error:
        raise InputError(f"{folder}: can't be written: {error.strerror or error}") from error
    except KeyboardInterrupt:
        if not _has_any(folder, names):
            raise
        raise InputError(f"{folder}: interrupted; the same command goes on") from None


def _has_any(folder: Path, names: Sequence[str]) -> bool:
    """Whether anything was made since the mark was."""
    return any(_is_younger(folder / name, folder / UNFINISHED) for name in names)


def _is_younger(file: Path, mark: Path) -> bool:
    """Files that --force is to replace are older than the mark."""
    return file.is_file() and mark.exists() and file.stat().st_mtime_ns >= mark.stat().st_mtime_ns


def _remove_leftovers(folder: Path, there: Path) -> None:
    """After a block that made no file: removes its mark, and the folders that were not there before."""
    with suppress(OSError):
        (folder / UNFINISHED).unlink(missing_ok=True)
        for made in (folder, *folder.parents):
            if made == there or made.absolute() == there:
                break
            made.rmdir()


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())


def _move(results: Path, folder: Path, names: Sequence[str]) -> None:
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        results.rename(folder)
        return
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).replace(folder / name)
