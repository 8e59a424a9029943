"""Files out of Debian packages, without installing them.

`apt-get download NAME` fetches a package and `dpkg-deb` opens it; neither needs root. Some games keep
their music inside a .zip or .pk3 archive within the package: those are looked into as well.
"""

import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from audiovae.errors import InputError

INNER_ARCHIVES = (".zip", ".pk3")


def unpack(package: str, wanted: str, cache: Path) -> Path:
    """Return a folder with the files of a Debian package whose path matches the regular expression `wanted`.

    The package and the folder stay in `cache`; a second call costs nothing.
    """
    folder = cache / "unpacked" / package
    marker = folder / f".unpacked-{zlib.crc32(wanted.encode()):08x}"
    if marker.exists():
        return folder
    deb = download(package, cache)
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                if member.isfile():
                    _keep(archive, member, re.compile(wanted), folder)
    except tarfile.TarError as error:
        raise InputError(f"{deb}: damaged or cut off: remove it") from error
    if process.wait() != 0:
        raise InputError(f"{deb}: dpkg-deb can't read it: remove it")
    marker.touch()
    return folder


def download(package: str, cache: Path) -> Path:
    """Return the .deb of a package, fetched into `cache` unless it lies there already."""
    cache.mkdir(parents=True, exist_ok=True)
    found = sorted(cache.glob(f"{package}_*.deb"))
    if not found:
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, check=True)
            deb = next(Path(scratch).glob("*.deb"))
            found = [deb.rename(cache / deb.name)]
    return found[-1]


def files(folder: Path, wanted: str) -> Iterator[Path]:
    """Yield the files below `folder` whose path matches the regular expression `wanted`, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and re.search(wanted, "/" + path.relative_to(folder).as_posix()):
            yield path


def _keep(archive: tarfile.TarFile, member: tarfile.TarInfo, wanted: re.Pattern[str], folder: Path) -> None:
    name = "/" + member.name.removeprefix("./")
    stream = archive.extractfile(member)
    if stream is None:
        return
    if wanted.search(name) or name.endswith("/copyright"):
        _copy(stream, folder, name)
    elif name.endswith(INNER_ARCHIVES):
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(stream, spool, 1 << 22)
            with zipfile.ZipFile(spool) as inner:
                for entry in inner.namelist():
                    if wanted.search("/" + entry) and not entry.endswith("/"):
                        _copy(inner.open(entry), folder, entry)


def _copy(stream: IO[bytes], folder: Path, name: str) -> None:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
    target = folder.joinpath(*parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 22)
