"""What is to be encoded: files, folders, globs, lists, manifests and tar archives become recordings."""

import codecs
import errno
import glob
import json
import os
import posixpath
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audiovae.audio_folder import SUFFIXES, find_audio
from audiovae.encoding import remote
from audiovae.encoding.globs import matching
from audiovae.encoding.remote import Looks, scheme_of
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import name_text, text_name

MOST_SECONDS = 9e9
"""Since 1970, in nanoseconds that 64 bits hold."""
LINKS_FOLLOWED = 40
"""In an archive, from one to the next; more are a loop."""
UTF_16_MARKS = tuple(mark.decode("utf-8", "surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
"""What the first bytes of such a file are, read as UTF-8."""
ALL_NAMES_ARE_TEXT = ("darwin", "win32")
"""Systems where bytes in a list that are no UTF-8 mean another encoding, such as that of Windows' cmd."""
_PATH_KEYS = ("path", "audio_filepath")
"""Of a line of a manifest; the second is NeMo's."""
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""How a missing name is told; the last is Windows' answer to one that no file can have, such as a pattern."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a recording lies in its tar archive."""

    archive: str
    offset: int
    size: int
    mtime_ns: int


Place = Member | Looks | None
"""What is known of where a recording lies, besides its path."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One input, by the names that its row gets."""

    source: str
    """Its path below ``root``, with slashes, as ``name_text`` spells it."""
    root: str
    """The absolute path of the folder that was given, or that all inputs have in common; spelt likewise. On a store
    it begins with ``s3://`` or ``gs://``."""
    member: Member | None = None
    """None for a file of its own."""
    listed: Looks | None = None
    """What the listing of a store said of it; None where it must be asked."""

    @property
    def name(self) -> str:
        """Its absolute path, in the same spelling: the same however it was given."""
        return full_name(self.root, self.source)

    @property
    def path(self) -> Path:
        """The file; for a member of an archive, the archive's path and its name in it. What has a ``uri`` has none."""
        return Path(text_name(self.root), text_name(self.source))

    @property
    def uri(self) -> str | None:
        """Where it lies on a store; None for what lies on this machine."""
        return text_name(self.name) if scheme_of(self.root) else None


def full_name(root: str, source: str) -> str:
    """The absolute path of a source."""
    return f"{root}{source}" if root.endswith("/") else f"{root}/{source}"


def find_recordings(inputs: Sequence[str | Path]) -> list[Recording]:
    """The recordings that are meant, each once, in the order of the inputs, folders sorted.

    An input is an audio file, a folder, a glob in quotes, a list with one path a line (``.txt``), a JSON-lines
    manifest (``.jsonl``: ``{"path": …}``), or a tar archive (``.tar``). Paths in a list or manifest are relative to it.
    All but archives may lie on a store (``s3://bucket/folder``, ``gs://…``).
    Sources are relative to the one folder that was given, or to what all inputs have in common, so that two recordings
    never have the same; what lies elsewhere keeps its whole path.

    Raises InputError for an input that isn't there, can't be read, or holds no audio. A file that a list names, but
    that isn't there, is a recording: it becomes a row that says so.
    """
    tops: list[str] = []
    found: dict[str, Place] = {}
    for one in inputs:
        top, paths = _expand(os.fspath(one))
        tops.append(top)
        if not paths:
            raise InputError(f"{one}: no audio files in it")
        found |= paths
    try:
        top = _common(tops)
    except ValueError as error:
        raise InputError(f"{inputs[0]}, {inputs[-1]}: on different drives, encode them one by one") from error
    return [_recording(path, top, place) for path, place in found.items()]


def _common(tops: Sequence[str]) -> str:
    """The folder that all others lie in; empty if they lie on several stores."""
    schemes = {scheme_of(top) for top in tops}
    if len(schemes) > 1:
        return ""
    scheme = schemes.pop()
    if scheme:
        return scheme + posixpath.commonpath([top.removeprefix(scheme) for top in tops])
    return os.path.commonpath(tops)


def _recording(path: str, top: str, place: Place) -> Recording:
    scheme = scheme_of(path)
    separator = "/" if scheme else os.sep
    prefix = top if top.endswith(separator) else top + separator
    anchor = scheme or Path(path).anchor
    root = prefix if path.startswith(prefix) else anchor
    names = path.removeprefix(root), root if root == anchor else root.removesuffix(separator)
    source, root = (name_text(name.replace(separator, "/")) for name in names)
    return Recording(source, root, place) if isinstance(place, Member) else Recording(source, root, None, place)


def _expand(given: str) -> tuple[str, dict[str, Place]]:
    """The folder that an input's paths are relative to, and its recordings by absolute path."""
    if not given:
        raise InputError("an input is empty: name a file or folder")  # a script's unset variable; Path takes it for .
    if scheme_of(given):
        return _expand_remote(given)
    if "://" in given:
        raise InputError(f"{given}: only s3://, gs:// and files of this machine can be read: copy it here first")
    path = Path(given)
    exists = _exists(path)
    if not exists and glob.has_magic(given):
        return _glob(given)
    if not exists and not path.is_symlink():
        raise InputError(f"{given}: no such file or folder")
    top = os.path.abspath(path if path.is_dir() else path.parent)
    if path.is_dir():
        return top, {os.path.abspath(file): None for file in find_audio(path)}
    match path.suffix.lower():
        case ".txt" | ".jsonl":
            return top, _listed(given, top, _text(path))
        case ".tar" | ".gz" | ".tgz" | ".bz2" | ".xz" | ".zst" | ".zip":
            return top, dict(_members(path))
    return top, {os.path.abspath(path): None}


def _exists(path: Path) -> bool:
    """Raises InputError for a name that can't be looked up, which pathlib takes for a missing one since Python 3.14."""
    try:
        path.stat()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError:  # a null character in it
        return False
    return True


def _expand_remote(uri: str) -> tuple[str, dict[str, Place]]:
    top, found = remote.find(uri)
    match posixpath.splitext(uri)[1].lower() if list(found) == [uri] else "":
        case ".txt" | ".jsonl":
            return top, _listed(uri, top, remote.read_text(uri))
        case ".tar":
            raise InputError(f"{uri}: an archive must be a file of this machine: copy it here first")
    return top, dict(found)


def _glob(pattern: str) -> tuple[str, dict[str, Place]]:
    """A pattern, which may have ** for any folders: audio files that it matches, and those in archives and folders.

    As in ``find_audio``, ** leaves out hidden folders, and links to folders, so that a loop can't trap it.
    """
    whole = Path(pattern)
    folders_only = whole.name == "**" or pattern.endswith(("/", os.sep))
    while whole.name == "**":  # it means what lies below, and so does the folder
        whole = whole.parent
    fixed = whole
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    parts = whole.relative_to(fixed).parts
    found: dict[str, Place] = {}
    for path in sorted(matching(fixed, parts)):
        if os.path.isdir(path):  # pathlib's raises where a folder can't be entered
            if not (path.is_symlink() and "**" in parts):
                found |= {os.path.abspath(file): None for file in find_audio(path)}
        elif not folders_only and path.suffix.lower() == ".tar":
            found |= dict(_members(path))
        elif not folders_only and path.suffix.lower() in SUFFIXES:
            found[os.path.abspath(path)] = None
    return os.path.abspath(fixed), found


def _text(path: Path) -> str:
    """What a list says; bytes that are no text are kept, as file names may hold them."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _listed(name: str, folder: str, text: str) -> dict[str, Place]:
    """The paths in a list or manifest that lies in a folder."""
    if text[:2] in UTF_16_MARKS or (sys.platform in ALL_NAMES_ARE_TEXT and _has_other_bytes(text)):
        raise InputError(f"{name}: not a list of paths in UTF-8")
    lines = (line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n"))
    lines = (line for line in lines if line.strip())
    paths = (_manifest_path(name, line) for line in lines) if name.lower().endswith(".jsonl") else lines
    found: dict[str, Place] = dict.fromkeys(_beside(folder, path) for path in paths)
    remote.want_buckets(path for path in found if scheme_of(path))
    return found


def _has_other_bytes(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _beside(folder: str, path: str) -> str:
    """A path in a list, made absolute."""
    if scheme_of(path):
        return path
    if (scheme := scheme_of(folder)) and not posixpath.isabs(path):
        return scheme + posixpath.normpath(posixpath.join(folder.removeprefix(scheme), path))
    return os.path.abspath(os.path.join(folder, path))


def _manifest_path(manifest: str, line: str) -> str:
    try:
        entry = json.loads(line)
        path = next(entry[key] for key in _PATH_KEYS if isinstance(entry.get(key), str))
        os.fsencode(path)  # JSON can spell what no path can hold
    except (ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(f'{manifest}: want lines like {{"path": "a.wav"}}, got {line[:60]}') from error
    return path


def _members(archive: Path) -> Iterator[tuple[str, Member]]:
    """The audio files of a tar archive, by its path and their name in it; of equal names the last, as tar has it."""
    opened = False
    try:
        with tarfile.open(archive, "r:") as tar:
            opened = True
            for entry in tar:
                name = PurePosixPath(entry.name)
                if name.suffix.lower() not in SUFFIXES or name.name[0] == ".":
                    continue
                held = _linked(tar, entry)
                if held.isreg() and not held.issparse():
                    if not abs(entry.mtime) < MOST_SECONDS:
                        raise InputError(f"{archive}: {entry.name}: its time, {entry.mtime}, is none")
                    place = Member(os.path.abspath(archive), held.offset_data, held.size, int(entry.mtime * 1e9))
                    yield f"{os.path.abspath(archive)}/{entry.name.lstrip('/')}", place
            _refuse_broken_end(archive, tar.offset)
    except OSError as error:
        raise InputError(f"{archive}: {error.strerror}") from error
    except tarfile.TarError as error:
        reason = "damaged or cut off" if opened else "not a tar archive, or a compressed one: unpack it first"
        raise InputError(f"{archive}: {reason}") from error


def _linked(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """What a link in an archive leads to, if that is in it; what is no link is itself."""
    for _ in range(LINKS_FOLLOWED):
        if not (entry.islnk() or entry.issym()):
            break
        folder = posixpath.dirname(entry.name) if entry.issym() else ""
        try:
            entry = tar.getmember(posixpath.normpath(posixpath.join(folder, entry.linkname)))
        except KeyError:
            break
    return entry


def _refuse_broken_end(archive: Path, end: int) -> None:
    """Python takes a header that makes no sense for the end; what came after it would be left out unsaid."""
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise InputError(f"{archive}: damaged or cut off at byte {end}")
