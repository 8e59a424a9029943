"""What is to be encoded: files, folders, globs, lists, manifests and tar archives become recordings."""

import glob
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audiovae.audio_folder import SUFFIXES, find_audio
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import name_text, text_name

MOST_SECONDS = 9e9
"""Since 1970, in nanoseconds that 64 bits hold."""
_PATH_KEYS = ("path", "audio_filepath")
"""Of a line of a manifest; the second is NeMo's."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a recording lies in its tar archive."""

    archive: str
    offset: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Recording:
    """One input, by the names that its row gets."""

    source: str
    """Its path below ``root``, with slashes, as ``name_text`` spells it."""
    root: str
    """The absolute path of the folder that was given, or that all inputs have in common; spelt likewise."""
    member: Member | None = None
    """None for a file of its own."""

    @property
    def name(self) -> str:
        """Its absolute path, in the same spelling: the same however it was given."""
        return full_name(self.root, self.source)

    @property
    def path(self) -> Path:
        """The file; for a member of an archive, the archive's path and its name in it."""
        return Path(text_name(self.root), text_name(self.source))


def full_name(root: str, source: str) -> str:
    """The absolute path of a source."""
    return f"{root.rstrip('/')}/{source}"


def find_recordings(inputs: Sequence[str | Path]) -> list[Recording]:
    """The recordings that are meant, each once, in the order of the inputs, folders sorted.

    An input is an audio file, a folder, a glob in quotes, a list with one path a line (``.txt``), a JSON-lines
    manifest (``.jsonl``: ``{"path": …}``), or a tar archive (``.tar``). Paths in a list or manifest are relative to it.
    Sources are relative to the one folder that was given, or to what all inputs have in common, so that two recordings
    never have the same; what lies elsewhere keeps its whole path.

    Raises InputError for an input that isn't there, can't be read, or holds no audio. A file that a list names, but
    that isn't there, is a recording: it becomes a row that says so.
    """
    tops: list[str] = []
    found: dict[str, Member | None] = {}
    for one in inputs:
        top, paths = _expand(os.fspath(one))
        tops.append(top)
        if not paths:
            raise InputError(f"{one}: no audio files in it")
        found |= paths
    try:
        top = os.path.commonpath(tops)
    except ValueError as error:
        raise InputError(f"{inputs[0]}, {inputs[-1]}: on different drives, encode them one by one") from error
    return [_recording(path, top, member) for path, member in found.items()]


def _recording(path: str, top: str, member: Member | None) -> Recording:
    prefix = top.rstrip(os.sep) + os.sep
    root = prefix if path.startswith(prefix) else Path(path).anchor
    source = path.removeprefix(root)
    return Recording(_slashed(source), _slashed(root.rstrip(os.sep) or root), member)


def _slashed(path: str) -> str:
    return name_text(path.replace(os.sep, "/"))


def _expand(given: str) -> tuple[str, dict[str, Member | None]]:
    """The folder that an input's paths are relative to, and its recordings by absolute path."""
    if not given:
        raise InputError("an input is empty: name a file or folder")  # a script's unset variable; Path takes it for .
    if "://" in given:
        raise InputError(f"{given}: only files of this machine can be read: mount that storage, or copy it here first")
    path = Path(given)
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{given}: {error.strerror}") from error
    if not exists and glob.has_magic(given):
        return _glob(given)
    if not exists and not path.is_symlink():
        raise InputError(f"{given}: no such file or folder")
    top = os.path.abspath(path if path.is_dir() else path.parent)
    if path.is_dir():
        return top, {os.path.abspath(file): None for file in find_audio(path)}
    match path.suffix.lower():
        case ".txt":
            return top, {os.path.abspath(path.parent / line): None for line in _lines(path)}
        case ".jsonl":
            return top, {os.path.abspath(path.parent / _manifest_path(path, line)): None for line in _lines(path)}
        case ".tar":
            return top, dict(_members(path))
    return top, {os.path.abspath(path): None}


def _glob(pattern: str) -> tuple[str, dict[str, Member | None]]:
    """A pattern, which may have ** for any folders; all audio files it matches, and all below folders it matches."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    found: dict[str, Member | None] = {}
    for path in sorted(map(Path, glob.iglob(pattern, recursive=True))):
        if path.is_dir() and "**" not in pattern:
            found |= {os.path.abspath(file): None for file in find_audio(path)}
        elif path.suffix.lower() in SUFFIXES and not path.is_dir():
            found[os.path.abspath(path)] = None
    return os.path.abspath(fixed), found


def _lines(path: Path) -> list[str]:
    """The lines of a list, without empty ones; bytes that are no text are kept, as file names may hold them."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    lines = (line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line.strip()]


def _manifest_path(manifest: Path, line: str) -> str:
    try:
        entry = json.loads(line)
        path = next(entry[key] for key in _PATH_KEYS if isinstance(entry.get(key), str))
        os.fsencode(path)  # JSON can spell what no path can hold
    except (ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(f'{manifest}: want lines like {{"path": "a.wav"}}, got {line[:60]}') from error
    return path


def _members(archive: Path) -> Iterator[tuple[str, Member]]:
    """The audio files of a tar archive, by its path and their name in it; of equal names the last, as tar has it."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                name = PurePosixPath(entry.name)
                if entry.isreg() and not entry.issparse() and name.suffix.lower() in SUFFIXES and name.name[0] != ".":
                    if not abs(entry.mtime) < MOST_SECONDS:
                        raise InputError(f"{archive}: {entry.name}: its time, {entry.mtime}, is none")
                    place = Member(str(archive), entry.offset_data, entry.size, int(entry.mtime * 1e9))
                    yield f"{os.path.abspath(archive)}/{entry.name.lstrip('/')}", place
    except OSError as error:
        raise InputError(f"{archive}: {error.strerror}") from error
    except tarfile.TarError as error:
        raise InputError(f"{archive}: not a tar archive, or a compressed one: unpack it first") from error
