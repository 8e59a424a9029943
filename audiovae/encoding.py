"""A dataset of recordings to a dataset of latents and back: one file each, in the same folders, resumable."""

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from audiovae.audio_folder import find_audio
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.latents import Latents
from audiovae.whole_file import whole_file

SUFFIX = ".latents.safetensors"
"""Goes after a recording's whole name, so that a.wav and a.flac have different latents files."""
FAILURES_FILE = "failures.jsonl"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Named:
    """A file, and its name in the dataset: a path relative to the dataset's folder."""

    path: Path
    name: str


@dataclass(frozen=True)
class Failure:
    """A recording that couldn't be encoded, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run of ``encode_dataset`` did, by the recordings' paths."""

    written: tuple[str, ...]
    skipped: tuple[str, ...]
    """Done by an earlier run."""
    failures: tuple[Failure, ...]


def find_recordings(paths: Sequence[Path]) -> list[Named]:
    """The recordings of files and folders, each once, with the names of their latents files.

    Names mirror the path below the folder that was given, or below the folder that all given paths have in common,
    so that no two can be the same and none leaves the dataset. Raises InputError for a path that isn't there.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        recordings = [path] if path.is_file() else find_audio(path)
        if not recordings:
            raise InputError(f"{path}: no audio files in it")
        found |= dict.fromkeys(Path(os.path.abspath(recording)) for recording in recordings)
    tops = {os.path.abspath(path if path.is_dir() else path.parent) for path in paths}
    try:
        top = os.path.commonpath(tops)
    except ValueError as error:
        raise InputError(f"{paths[0]}, {paths[-1]}: on different drives, encode them one by one") from error
    given = Path.cwd()
    return [Named(_as_given(path, given), f"{path.relative_to(top)}{SUFFIX}") for path in found]


def _as_given(path: Path, folder: Path) -> Path:
    """Relative to the working folder where it is below it, since the source is written into the latents file."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def encode_dataset(
    codec: Codec,
    recordings: Sequence[Named],
    dataset: Path,
    *,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Encodes what isn't done yet; each latents file appears whole, so a run that was killed is just run again.

    Done is a latents file that loads, was made by this checkpoint, and is not older than its recording. Recordings
    that can't be used are listed in the outcome and in the dataset's ``failures.jsonl``. Raises InputError where the
    dataset can't be written, or holds latents of another checkpoint and ``force`` is off; ``force`` redoes all.
    """
    done = [] if force else [one for one in recordings if _is_done(one, dataset / one.name, codec.fingerprint)]
    finished = set(done)
    todo = [one for one in recordings if one not in finished]
    _make_folder(dataset)
    written, failures = [], []
    progress(len(done), len(recordings))
    try:
        for count, one in enumerate(todo, start=len(done) + 1):
            _make_folder((dataset / one.name).parent)
            try:
                codec.encode(one.path).save(dataset / one.name, force=True)
                written.append(str(one.path))
            except (InputError, OSError) as error:
                if _is_of_dataset(error):
                    raise
                failures.append(Failure(str(one.path), str(error).removeprefix(f"{one.path}: ")))
            progress(count, len(recordings))
    finally:
        # An interrupted run has failures to tell of too.
        _write_failures(dataset / FAILURES_FILE, failures)
    return Outcome(tuple(written), tuple(str(one.path) for one in done), tuple(failures))


def find_latents(path: Path) -> list[Named]:
    """The latents files of a dataset, sorted, or the one that is given. Raises InputError if there are none."""
    if path.is_file():
        return [Named(path, path.name)]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(file for file in path.rglob(f"*{SUFFIX}") if not file.name.startswith("."))
    if not found:
        raise InputError(f"{path}: no latents files in it (*{SUFFIX})")
    return [Named(file, str(file.relative_to(path))) for file in found]


def audio_names(files: Sequence[Named], suffix: str) -> list[str]:
    """Names of the audio files that latents files become, without their own suffix if that leaves them distinct.

    a.flac.latents.safetensors becomes a.wav; if there is a.mp3.latents.safetensors too, a.flac.wav and a.mp3.wav.
    """
    sources = [Path(file.name.removesuffix(SUFFIX)) for file in files]
    stems = Counter(str(source.with_suffix("")).lower() for source in sources)
    return [
        f"{source.with_suffix('') if stems[str(source.with_suffix('')).lower()] == 1 else source}.{suffix}"
        for source in sources
    ]


def decode_dataset(
    codec: Codec,
    files: Sequence[Named],
    targets: Sequence[Path],
    *,
    quality: str = "standard",
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """Decodes latents files to audio files; returns the gains in dB that kept them from clipping.

    All are looked at first: raises InputError that names the file if one can't be read or another checkpoint made it.
    """
    for file in files:
        made_by = Latents.load(file.path).checkpoint
        if made_by != codec.fingerprint:
            this = f"{codec.fingerprint} ({codec.checkpoint.source})"
            raise InputError(f"{file.path}: encoded by checkpoint {made_by}, this one is {this}")
    gains_db = []
    for done, (file, target) in enumerate(zip(files, targets, strict=True), start=1):
        target.parent.mkdir(parents=True, exist_ok=True)
        gains_db.append(codec.save(Latents.load(file.path), target, quality=quality))
        progress(done, len(files))
    return gains_db


def _is_done(recording: Named, target: Path, fingerprint: str) -> bool:
    if not target.is_file():
        return False
    try:
        there = Latents.load(target)
    except InputError:
        return False  # damaged: it is made again
    if there.checkpoint != fingerprint:
        made = f"holds latents of checkpoint {there.checkpoint}, this one is {fingerprint}"
        raise InputError(f"{target}: {made} (use --force to encode them again)")
    # The same file may be given from another folder: one path then ends in the other.
    shorter, longer = sorted((Path(there.source).parts, recording.path.parts), key=len)
    if longer[-len(shorter) :] != shorter:
        raise InputError(f"{target}: holds latents of {there.source}, not of {recording.path} (--force replaces them)")
    return target.stat().st_mtime_ns >= recording.path.stat().st_mtime_ns


def _is_of_dataset(error: Exception) -> bool:
    """Whether the disk refused the latents, as it would all others; a name that is too long is one recording's."""
    refusal = error.__cause__
    return isinstance(refusal, OSError) and refusal.errno != errno.ENAMETOOLONG


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise InputError(f"{folder}: is a file, not a folder") from error
    except OSError as error:
        raise InputError(f"{folder}: can't be made: {error.strerror}") from error


def _write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """The list of this run's failures, whole; none if nothing failed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with whole_file(path, force=True) as temporary:
        lines = (json.dumps(asdict(failure)) + "\n" for failure in failures)
        temporary.write_text("".join(lines), encoding="utf-8")
