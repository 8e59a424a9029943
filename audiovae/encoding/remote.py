"""Recordings on S3 or Google Cloud Storage: found, looked at and fetched through pyarrow's file systems."""

import errno
import glob
import os
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from audiovae.audio_folder import SUFFIXES
from audiovae.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

S3, GS = "s3://", "gs://"
CONNECT_SECONDS, ANSWER_SECONDS, ATTEMPTS = 5.0, 20.0, 3
"""How long a store may take, and how often it is asked: one that is gone costs a recording a minute at most."""
FETCH_BYTES = 8 << 20
"""Fetched at once; each is a request to S3."""
_S3_ERROR = re.compile(r"AWS Error (\w+)(?: \(([^)]*)\))? during \w+ operation: (.*)", re.DOTALL)
_GS_ERROR = re.compile(r"Status\((\w+): (?:.*?with a last message of )?(.*?) error_info=", re.DOTALL)
_DENIED = "access denied, with the credentials that were found, if any"
_GONE = "the store can't be reached"
_WORDS = {
    "NO_SUCH_BUCKET": "no such bucket",
    "ACCESS_DENIED": _DENIED,
    "PERMISSION_DENIED": _DENIED,
    "NETWORK_CONNECTION": _GONE,
    "UNAVAILABLE": _GONE,
}

Looks = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds since 1970."""


def scheme_of(path: str) -> str:
    """``s3://`` or ``gs://``; empty for a path of this machine."""
    return path[: len(S3)] if path.startswith((S3, GS)) else ""


def find(uri: str) -> tuple[str, dict[str, Looks | None]]:
    """What an object, a folder or a glob on a store means: the folder that it is relative to, and audio by its URI.

    Hidden names are left out, as in folders of this machine. Raises InputError, with the URI and the reason.
    """
    scheme, path = scheme_of(uri), uri.removeprefix(scheme_of(uri)).rstrip("/")
    with _refused(uri):
        store = _store(uri)
        info = store.get_file_info(path)
        folder, found = path, []
        if info.type.name == "File":
            folder, found = posixpath.dirname(path), [info]
        elif info.type.name == "Directory":
            found = _audio_below(store, path)
        elif glob.has_magic(path):
            folder, found = _glob(store, path)
        else:
            _want_bucket(store, path)
            raise FileNotFoundError(errno.ENOENT, "no such object or folder")
    return scheme + folder, {scheme + one.path: _looks(one, scheme) for one in found}


def read_text(uri: str) -> str:
    """A list or manifest on a store; bytes that are no text are kept. Raises InputError."""
    with _refused(uri), _told(), _store(uri).open_input_stream(_path(uri)) as stream:
        return stream.read().decode("utf-8", "surrogateescape")


def want_buckets(uris: Iterable[str]) -> None:
    """Raises InputError if the bucket of one of these isn't there or can't be read; each bucket is tried once."""
    first: dict[str, str] = {}
    for uri in uris:
        first.setdefault(_bucket(uri), uri)
    for uri in first.values():
        with _refused(uri):
            try:
                look_at(uri)
            except ConnectionError:
                raise
            except OSError:  # of this object; a row will say so
                _want_bucket(_store(uri), _path(uri))


def look_at(uri: str) -> Looks:
    """Size and time of change of an object as they are now. Raises OSError with the reason as its strerror."""
    with _told():
        info = _store(uri).get_file_info(_path(uri))
        if info.type.name == "Directory":
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        looks = _looks(info, scheme_of(uri))
        if looks is None:
            raise FileNotFoundError(errno.ENOENT, "no such object")
        return looks


def fetch(uri: str, target: Path) -> None:
    """Copies an object to a file, in bounded memory. Raises OSError with the reason as its strerror."""
    with target.open("wb") as file, _told(), _store(uri).open_input_stream(_path(uri)) as stream:
        shutil.copyfileobj(stream, file, FETCH_BYTES)


def _path(uri: str) -> str:
    return uri.removeprefix(scheme_of(uri))


def _bucket(uri: str) -> str:
    """The URI of its bucket. Raises InputError for what names none."""
    scheme = scheme_of(uri)
    name = _path(uri).split("/", 1)[0]
    if "@" in name:
        raise InputError(f"{scheme}…: has credentials in it: they belong in the environment")  # and not in a dataset
    if not name or glob.has_magic(name):
        raise InputError(f"{uri}: want a bucket's name after {scheme}")
    return scheme + name


def _store(uri: str) -> "FileSystem":
    """The file system that has it. Credentials are what the libraries find in environment, files and cloud."""
    return _store_of(_bucket(uri))


@cache
def _store_of(bucket: str) -> "FileSystem":
    """One for each bucket and process: buckets lie in different regions."""
    from pyarrow import fs

    if scheme_of(bucket) == GS:
        emulator = _endpoint("STORAGE_EMULATOR_HOST")
        patience = timedelta(seconds=ANSWER_SECONDS)
        return fs.GcsFileSystem(retry_time_limit=patience, anonymous=bool(emulator), **emulator)
    own = _endpoint("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region = None if own else fs.resolve_s3_region(_path(bucket))
    return fs.S3FileSystem(
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **own,
    )


def _endpoint(*variables: str) -> dict[str, str]:
    """Another address than Amazon's or Google's, if the environment names one."""
    address = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    if address is None:
        return {}
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return {"scheme": parts.scheme, "endpoint_override": (parts.netloc + parts.path).rstrip("/")}


def _want_bucket(store: "FileSystem", path: str) -> None:
    if store.get_file_info(path.split("/", 1)[0]).type.name == "NotFound":
        raise FileNotFoundError(errno.ENOENT, "no such bucket")


def _looks(info: "FileInfo", scheme: str) -> Looks | None:
    if info.type.name != "File":
        return None
    mtime_ns = info.mtime_ns or 0
    # Some S3 servers list milliseconds, but say only seconds when they are asked for one object.
    return info.size, mtime_ns - mtime_ns % 10**9 if scheme == S3 else mtime_ns


def _audio_below(store: "FileSystem", folder: str) -> "list[FileInfo]":
    """All audio objects below a folder, in the order that folders of this machine have."""
    return _audio(_below(store, folder, recursive=True))


def _below(store: "FileSystem", folder: str, *, recursive: bool) -> "list[FileInfo]":
    """Objects and folders below one, without hidden ones."""
    from pyarrow.fs import FileSelector

    infos = store.get_file_info(FileSelector(folder, recursive=recursive))
    return [info for info in infos if "/." not in info.path[len(folder) :]]


def _audio(infos: "Iterable[FileInfo]") -> "list[FileInfo]":
    found = [
        info for info in infos if info.type.name == "File" and posixpath.splitext(info.path)[1].lower() in SUFFIXES
    ]
    return sorted(found, key=lambda info: info.path.split("/"))


def _glob(store: "FileSystem", pattern: str) -> "tuple[str, list[FileInfo]]":
    """The fixed part of a pattern, and all audio objects that it matches, or that lie below folders it matches.

    Folder by folder, so that a pattern of few folders doesn't list a whole bucket.
    """
    parts = pattern.split("/")
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    fixed = "/".join(parts[:first])
    if store.get_file_info(fixed).type.name == "NotFound":
        _want_bucket(store, fixed)
        return fixed, []
    folders, found = [fixed], []
    for place in range(first, len(parts)):
        if parts[place] == "**":
            below = [(folder, info) for folder in folders for info in _below(store, folder, recursive=True)]
            rest = parts[place:]
            found = [info for folder, info in below if _matches(info.path[len(folder) + 1 :].split("/"), rest)]
            folders = [] if rest[-1] == "**" else [info.path for info in found if info.type.name == "Directory"]
            break
        infos = (info for folder in folders for info in _below(store, folder, recursive=False))
        found = [info for info in infos if fnmatchcase(posixpath.basename(info.path), parts[place])]
        folders = [info.path for info in found if info.type.name == "Directory"]
    found += [info for folder in folders for info in _audio_below(store, folder)]
    return fixed, _audio({info.path: info for info in found}.values())


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether parts of a path match those of a pattern, of which ``**`` is any number of folders, or none."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return (bool(parts) and _matches(parts[1:], pattern)) or _matches(parts, pattern[1:])
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


@contextmanager
def _refused(uri: str) -> Iterator[None]:
    """What goes wrong before a run is told in one line with the URI."""
    try:
        with _told():
            yield
    except OSError as error:
        raise InputError(f"{uri}: {error.strerror}") from error


@contextmanager
def _told() -> Iterator[None]:
    """pyarrow's errors, which are long and of many kinds, as OSErrors with a short reason."""
    from pyarrow import ArrowException

    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, ArrowException) as error:
        if isinstance(error, OSError) and error.strerror and "Detail:" not in str(error):
            raise  # ours, or of this machine's disk
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, "no such object") from error
        reason = _reason(str(error))
        kind = ConnectionError if reason.startswith(_GONE) else OSError
        raise kind(errno.EIO, reason) from error


def _reason(text: str) -> str:
    """The point of a store's message: no request numbers, no addresses."""
    text = " ".join(text.split())
    if "Could not create a OAuth2 access token" in text:
        return "no credentials were found"
    if found := _S3_ERROR.search(text):
        code, status, said = found[1], found[2], re.sub(r" \(Request ID.*|; Details:.*", "", found[3])
        said = "" if said.startswith("No response body") else said.strip()
        words = _WORDS.get(code, f"the store refused ({status or code})")
    elif found := _GS_ERROR.search(text):
        words, said = _WORDS.get(found[1], f"the store refused ({found[1]})"), found[2]
    else:
        return text[:200]
    return f"{words}: {said}"[:200] if said and words != "no such bucket" else words
