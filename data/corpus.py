"""What the corpora share: mono 44.1 kHz FLAC files under train/, valid/ and test/, and a manifest of them."""

import json
import math
import os
import signal
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

import numpy as np
import soundfile

from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.whole_file import whole_file

SAMPLE_RATE = 44100
SPLITS = ("train", "valid", "test")
SILENCE_RMS = 3e-3
RECIPE, MANIFEST = "recipe.json", "manifest.jsonl"

Row = dict[str, Any]
T, R = TypeVar("T"), TypeVar("R")


class Job(Protocol):
    """One file to be made; `file` is its path within the corpus and starts with the split."""

    @property
    def file(self) -> Path: ...


def split_of(index: int) -> str:
    """Every tenth track or work is valid, the one after it test, the rest train."""
    return {9: "valid", 0: "test"}.get(index % 10, "train")


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Write 16-bit FLAC, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = float(np.abs(audio).max(initial=0.0))
    samples = np.round(audio / max(peak, 1.0) * 32767).astype(np.int16)
    temporary = path.with_suffix(".part")
    soundfile.write(temporary, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    temporary.replace(path)


def begin_worker() -> None:
    """Prepares a process of a pool: it leaves Ctrl-C to the recipe, and ends if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def above_zero(text: str) -> float:
    """What argparse takes for hours, seconds and sizes."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise ArgumentTypeError(f"{text} is not a number above 0")


def one_or_more(text: str) -> int:
    """What argparse takes for threads and processes."""
    with suppress(ValueError):
        if int(text) > 0:
            return int(text)
    raise ArgumentTypeError(f"{text} is not a whole number above 0")


@contextmanager
def errors_told() -> Iterator[None]:
    """Ends a recipe with one line about what can't be used or written; or says that it was interrupted."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)}: failed")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def agree(path: Path, recipe: Row) -> None:
    """Write a recipe beside what is made by it. Raises InputError if there is another one already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(recipe, indent=1), encoding="utf-8")
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted(recipe.keys() | there.keys()):
        if recipe.get(name) != there.get(name):
            raise InputError(
                f"{path.parent}: was begun with {name} {there.get(name)}, not {recipe.get(name)}; choose another folder"
            )


def recipe_of(options: Namespace, *but: str) -> Row:
    """All options that decide what is made; paths are represented by the names of what they lead to."""

    def named(value: Any) -> Any:
        return [named(one) for one in value] if isinstance(value, list) else getattr(value, "name", value)

    return {name: named(value) for name, value in vars(options).items() if name not in ("out", "jobs", *but)}


def build(
    root: Path,
    jobs: Sequence[Job],
    make: Callable[[Any], tuple[np.ndarray, Row] | None],
    pool: Executor,
    recipe: Row,
) -> None:
    """Make the file of every job that lacks one, and root/manifest.jsonl, one JSON object a file.

    `make` returns audio and labels, or None for silence, which leaves no file. The manifest grows as
    the files do, so an interrupted run loses nothing; at the end it is sorted.
    """
    if not jobs:
        raise InputError(f"{root}: nothing to make in so few hours; give more")
    (twice, jobs_of_it), *_ = Counter(job.file for job in jobs).most_common(1)
    if jobs_of_it > 1:
        raise InputError(f"{root / str(twice)}: would be made of {jobs_of_it} sources with names alike; rename them")
    with locked(root):
        agree(root / RECIPE, recipe)
        rows = _with_missing(root, jobs, make, pool)
        write_rows(root / MANIFEST, sorted(rows, key=lambda row: row["file"]))
    print(_summary(rows))


def _with_missing(
    root: Path, jobs: Sequence[Job], make: Callable[[Any], tuple[np.ndarray, Row] | None], pool: Executor
) -> list[Row]:
    """The rows of all files, once those that are missing are made."""
    rows = {row["file"]: row for row in read_rows(root / MANIFEST)}
    strangers = rows.keys() - {job.file.as_posix() for job in jobs}
    if strangers:
        raise InputError(f"{root}: holds {len(strangers)} files made with other options; choose another folder")
    missing = [job for job in jobs if job.file.as_posix() not in rows or not (root / job.file).exists()]
    print(f"{len(jobs)} files, {len(missing)} to be made", flush=True)
    with (root / MANIFEST).open("a") as out:
        for done, row in enumerate(pool.map(partial(_make_one, root, make), missing), start=1):
            if row is not None:
                rows[row["file"]] = row
                out.write(json.dumps(row) + "\n")
                out.flush()
            if done % 100 == 0:
                print(f"{done} of {len(missing)}", flush=True)
    return list(rows.values())


def in_order(pool: Executor, make: Callable[[T], R], jobs: Iterable[T], *, ahead: int) -> Iterator[tuple[T, R]]:
    """Yield every job and what came of it, in order, with so many made ahead; those are dropped if the caller stops."""
    started = ((job, pool.submit(make, job)) for job in jobs)
    waiting = deque(islice(started, ahead))
    try:
        while waiting:
            job, future = waiting.popleft()
            yield job, future.result()
            waiting.extend(islice(started, 1))
    finally:
        for _, future in waiting:
            future.cancel()


def _make_one(root: Path, make: Callable[[Any], tuple[np.ndarray, Row] | None], job: Job) -> Row | None:
    made = make(job)
    if made is None:
        return None
    audio, labels = made
    write_flac(root / job.file, audio)
    seconds = round(len(audio) / SAMPLE_RATE, 3)
    return {"file": job.file.as_posix(), "split": job.file.parts[0], "seconds": seconds} | labels


def read_rows(manifest: Path) -> list[Row]:
    """Return the rows of a manifest; the last line of an interrupted run may be cut short."""
    rows = []
    for line in manifest.read_text().splitlines() if manifest.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write_rows(manifest: Path, rows: Iterable[Row]) -> None:
    """Write a manifest anew, whole or not at all."""
    with whole_file(manifest, force=True) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _summary(rows: Sequence[Row]) -> str:
    parts = []
    for split in SPLITS:
        seconds = [row["seconds"] for row in rows if row["split"] == split]
        parts.append(f"{split} {len(seconds)} files {sum(seconds) / 3600:.2f} h")
    return ", ".join(parts)
