"""Unpacks this bundle and renders its corpus: python3 BUNDLE.pyz OUT [--hours 100] [--jobs 16] [--seed 0]

Makes OUT/bundle (what travelled), OUT/environment.sh (where Python finds audiovae and the packages that this
machine lacks) and, in OUT, the corpus: `. OUT/environment.sh && python3 -m audiovae train base --data OUT --out RUN`.
`--more MORE.pyz` adds the music of a second bundle (bundle.py --after).
Needs no network. A run that was killed goes on where it was. This file lies in the bundle as its __main__.py.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKSUM, MANIFEST = "bundle.sha256", "music/manifest.jsonl"


def unpack(archives: list[Path], folder: Path) -> None:
    """Unpack under a temporary name, so that a folder that exists is whole; nothing is done if it is these bundles'.

    The manifest of a later bundle has the rows of those before it too: all are needed, in whatever order.
    """
    checksum = "\n".join(hashlib.sha256(archive.read_bytes()).hexdigest() for archive in archives)
    if (folder / CHECKSUM).exists() and (folder / CHECKSUM).read_text() == checksum:
        return
    partial = folder.with_name("bundle.part")
    for old in (folder, partial):
        shutil.rmtree(old, ignore_errors=True)
    rows: dict[str, str] = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as members:
            members.extractall(partial)
            rows |= {json.loads(row)["file"]: row for row in members.read(MANIFEST).decode().splitlines()}
    if missing := next((file for file in rows if not (partial / "music" / file).exists()), None):
        sys.exit(f"error: {missing} is in none of these bundles: a later one needs all before it (--more)")
    (partial / MANIFEST).write_text("".join(f"{rows[file]}\n" for file in sorted(rows)))
    (partial / CHECKSUM).write_text(checksum)
    partial.rename(folder)


def install(wheels: list[Path], site: Path) -> None:
    """Install the packages that this Python lacks; what is there stays as it is."""
    missing = [str(wheel) for wheel in wheels if not is_installed(wheel)]
    if missing and not site.exists():
        partial = site.with_name("site.part")
        shutil.rmtree(partial, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        subprocess.run([*pip, "--no-deps", "--target", str(partial), *missing], check=True)
        partial.rename(site)


def is_installed(wheel: Path) -> bool:
    """Whether this Python has the package of a wheel, in whatever version."""
    name = re.sub("[-_.]+", "-", wheel.name.split("-")[0])
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def main(archive: Path, arguments: list[str]) -> None:
    if not arguments or arguments[0].startswith("-"):
        sys.exit(__doc__)
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    bundle = (out / "bundle").absolute()
    archives = [archive]
    while "--more" in arguments[1:-1]:
        at = arguments.index("--more")
        archives.append(Path(arguments[at + 1]))
        del arguments[at : at + 2]
    for one in archives:
        if not (zipfile.is_zipfile(one) and MANIFEST in zipfile.ZipFile(one).namelist()):
            sys.exit(f"error: {one}: {'not a bundle' if one.exists() else 'no such file'}")
    unpack(archives, bundle)
    install(sorted((bundle / "wheels").glob("*.whl")), bundle / "site")
    path = os.pathsep.join([str(bundle / "code"), str(bundle / "site")])
    (out / "environment.sh").write_text(f"export PYTHONPATH={shlex.quote(path)}\n")
    command = [sys.executable, str(bundle / "code" / "data" / "render.py"), str(bundle), *arguments]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})  # signals are then the rendering's to answer


if __name__ == "__main__":
    main(Path(sys.argv[0]), sys.argv[1:])
