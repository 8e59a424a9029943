"""Put all that a corpus is made of into one file, small enough to travel to a machine without a network.

    python data/bundle.py corpus.pyz --music corpus/music --midi MIDI.tgz --fonts TimGM6mb.sf2 FluidR3Mono_GM.sf3

There `python3 corpus.pyz OUT` unpacks and renders it (see unpack.py). The file holds the code, wheels for Python 3.12
on Linux, SoundFonts, MIDI files, and real music as Opus: as many excerpts of a corpus that music.py made as fit, of its
train split and, one in twenty, its valid split, taken from each track in turn. Its test split never travels.
Needs audiovae and, the first time, pip and the package index.

    python data/bundle.py more.pyz --music corpus/music --after corpus.pyz

makes a second one, which holds only music, that which the first has no room for: where both arrive, one after the
other, `python3 corpus.pyz OUT --more more.pyz` unpacks and renders both.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

import soundfile
import soxr

from audiovae.errors import InputError
from audiovae.whole_file import whole_file
from corpus import SAMPLE_RATE, Row, above_zero, errors_told, in_order, one_or_more, read_rows
from midi import check_archive
from soundfont import check_fonts, origin
from unpack import MANIFEST

DATA = Path(__file__).parent
PACKAGE = DATA.parent / "audiovae"
RECIPES = ("corpus", "midi", "notes", "pack", "parts", "render", "scores", "soundfont")
WHEELS = ("soundfile>=0.13,<1", "soxr>=1.0,<2", "pydantic>=2.11,<3")
WHEELS_ALONE = ("tinysoundfont>=0.3.7,<1",)  # it asks for pyaudio, which only live sound needs
NOT_CARRIED = ("numpy-*.whl",)  # downloaded as a dependency of soxr; where torch is, numpy is too
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
OPUS_RATE = 48_000
VALID_EVERY = 20
EXCERPTS_AHEAD = 8
DIRECTORY_BYTES, HEADER_BYTES = 46, 64  # of a zip file, for each file beside its name; and before it or at the end


def fetch_wheels(folder: Path) -> None:
    """Download the wheels that decoding, rendering and the package need, unless the folder has some."""
    if any(folder.glob("*.whl")):
        return
    partial = folder.with_name(f"{folder.name}.partial")  # not all, if the network fails
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--python-version", "3.12"]
    for packages, more in ((WHEELS, []), (WHEELS_ALONE, ["--no-deps"])):
        subprocess.run([*pip, *platforms, *more, "--dest", str(partial), *packages], check=True)
    for pattern in NOT_CARRIED:
        for wheel in partial.glob(pattern):
            wheel.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in partial.glob("*.whl"):
        wheel.replace(folder / wheel.name)
    partial.rmdir()


def in_turn(rows: Sequence[Row]) -> list[Row]:
    """The excerpts of a corpus: the first of every track, then the second ones, with tracks in shuffled order."""
    tracks: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["start_seconds"]):
        tracks.setdefault((row["package"], row["track"]), []).append(row)
    shuffled = sorted(tracks, key=lambda track: hashlib.sha256("/".join(track).encode()).digest())
    return [row for turn in zip_longest(*(tracks[track] for track in shuffled)) for row in turn if row]


def choose(rows: Sequence[Row]) -> list[Row]:
    """The order in which excerpts are taken until the bundle is full: one of twenty is for validation, none is test."""
    train, valid = (in_turn([row for row in rows if row["split"] == split]) for split in ("train", "valid"))
    chosen = []
    for number, row in enumerate(train, start=1):
        chosen.append(row)
        if number % (VALID_EVERY - 1) == 0 and valid:
            chosen.append(valid.pop(0))
    return chosen


def opus(root: Path, kbps: float, row: Row) -> bytes:
    """An excerpt as mono Opus."""
    audio, _ = soundfile.read(root / row["file"], dtype="float32")
    stream = io.BytesIO()
    # libsndfile's scale of bit rates: 256 kbit/s a channel at 0, 6 at 1.
    level = 1 - (kbps - 6) / 250
    audio = soxr.resample(audio, SAMPLE_RATE, OPUS_RATE)
    soundfile.write(stream, audio, OPUS_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return stream.getvalue()


def code() -> Iterator[tuple[str, bytes]]:
    """The package without its weights, its metadata, and the recipes that work without a network."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in (".py", ".toml", ".typed"):
            yield f"code/audiovae/{path.relative_to(PACKAGE).as_posix()}", path.read_bytes()
    release = version("audiovae")
    metadata = f"Metadata-Version: 2.1\nName: audiovae\nVersion: {release}\n"
    yield f"code/audiovae-{release}.dist-info/METADATA", metadata.encode()
    for name in RECIPES:
        yield f"code/data/{name}.py", (DATA / f"{name}.py").read_bytes()


def midi_archive(midi: Path) -> bytes:
    """A .tgz of MIDI files as it is, or one made of a folder, the same bytes each time."""
    if midi.is_file():
        check_archive(midi)
        return midi.read_bytes()
    names = sorted(path.relative_to(midi).as_posix() for path in midi.rglob("*.mid"))
    if not names:
        raise InputError(f"{midi}: no .mid files in it")
    with tempfile.TemporaryDirectory() as scratch:
        tar = Path(scratch, "midi.tgz")
        options = ["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--use-compress-program=gzip -n9"]
        subprocess.run(["tar", "-C", str(midi), *options, "-cf", str(tar), "--", *names], check=True)
        return tar.read_bytes()


class Bundle:
    """A zip file that Python can run, and that knows how large it will be.

    The same content gives the same bytes, but for the random serial numbers of Ogg files.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def add(self, name: str, content: bytes, *, packed: bool) -> None:
        """Add a file, compressed or as it is."""
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o644 << 16
        entry.compress_type = zipfile.ZIP_LZMA if packed else zipfile.ZIP_STORED
        self.archive.writestr(entry, content)

    def size_with(self, name: str = "", length: int = 0) -> int:
        """Bytes of the whole once it is closed, with one more file of a length that is stored as it is."""
        entries = [*(entry.filename for entry in self.archive.filelist), name]
        written = sum(len(entry.FileHeader()) + entry.compress_size for entry in self.archive.filelist)
        return written + sum(DIRECTORY_BYTES + len(entry) for entry in entries) + HEADER_BYTES + length


def fixed_parts(options: argparse.Namespace) -> Iterator[tuple[str, bytes, bool]]:
    """Name, content, and whether to compress it, of all but the music."""
    yield "__main__.py", (DATA / "unpack.py").read_bytes(), False
    for name, content in code():
        yield name, content, True
    for wheel in sorted(options.wheels.glob("*.whl")):
        yield f"wheels/{wheel.name}", wheel.read_bytes(), False
    yield "midi.tgz", midi_archive(options.midi), False
    for font in options.fonts:
        yield f"soundfonts/{font.name}", font.read_bytes(), True


def write(path: Path, options: argparse.Namespace, pool: Executor) -> str:
    """Write the bundle to a path, and return what is in it, in words. Raises InputError where that does not fit."""
    before, rows = manifest_of(options.after) if options.after else "", read_rows(options.music / "manifest.jsonl")
    if not rows or any("start_seconds" not in row for row in rows):
        raise InputError(f"{options.music}: not a corpus that music.py made")
    rows = not_in(before, choose(rows))
    if not rows:
        what = f"that isn't in {options.after}" if options.after else "to train on"
        raise InputError(f"{options.music}: has nothing {what}")
    limit = round(options.limit_mib * 2**20)
    with zipfile.ZipFile(path, "w") as archive:
        bundle = Bundle(archive)
        for name, content, packed in () if options.after else fixed_parts(options):
            bundle.add(name, content, packed=packed)
        fixed = bundle.size_with()
        carried = _add_music(bundle, rows, options, pool, limit, before)
    if not carried:
        rest = f"code, wheels, MIDI and SoundFonts take {fixed / 2**20:.1f} MiB: no music fits beside them"
        raise InputError(f"{options.out}: {'no music fits' if options.after else rest} in {options.limit_mib:g} MiB")
    minutes = sum(row["seconds"] for row in carried) / 60
    return f"{len(carried)} excerpts of music, {minutes:.0f} min, beside {fixed / 2**20:.1f} MiB of the rest"


def manifest_of(bundle: Path) -> str:
    """The manifest of a bundle's music. Raises InputError if the file is no bundle."""
    try:
        with zipfile.ZipFile(bundle) as archive:
            return archive.read(MANIFEST).decode()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{bundle}: not a bundle: {error}") from error


def not_in(manifest: str, rows: Sequence[Row]) -> list[Row]:
    """The excerpts that a manifest doesn't list."""
    there = {json.loads(line)["file"] for line in manifest.splitlines()}
    return [row for row in rows if name_of(row) not in there]


def name_of(row: Row) -> str:
    """An excerpt's file in the bundle's music."""
    return Path(row["file"]).with_suffix(".opus").as_posix()


def _add_music(
    bundle: Bundle, rows: list[Row], options: argparse.Namespace, pool: Executor, limit: int, manifest: str
) -> list[Row]:
    """Add excerpts until the next one, with its row in the manifest, would exceed the limit; then the manifest."""
    carried = []
    encode = partial(opus, options.music, options.kbps)
    for row, content in in_order(pool, encode, rows, ahead=EXCERPTS_AHEAD):
        name = name_of(row)
        line = json.dumps(row | {"file": name, "opus_kbps": options.kbps}) + "\n"
        beside = len(manifest) + len(line) + HEADER_BYTES + DIRECTORY_BYTES + 2 * len(MANIFEST)
        if bundle.size_with(f"music/{name}", len(f"music/{name}") + len(content)) + beside > limit:
            break
        bundle.add(f"music/{name}", content, packed=False)
        carried.append(row)
        manifest += line
    bundle.add(MANIFEST, manifest.encode(), packed=False)
    return carried


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.pyz")
    parser.add_argument("--music", type=Path, required=True, metavar="DIR", help="a corpus that music.py made")
    parser.add_argument("--midi", type=Path, help="a folder or .tgz of .mid files")
    parser.add_argument("--fonts", type=Path, nargs="+", default=[], metavar="SOUNDFONT")
    parser.add_argument("--after", type=Path, metavar="FIRST.pyz", help="only music that this bundle doesn't have")
    parser.add_argument(
        "--wheels", type=Path, default=Path("wheels"), metavar="DIR", help="of wheels; fetched if none (wheels)"
    )
    parser.add_argument("--kbps", type=above_zero, default=48.0, help="of the music (default 48)")
    parser.add_argument("--limit-mib", type=above_zero, default=64.0, help="the bundle's largest size (default 64)")
    parser.add_argument("--jobs", type=one_or_more, default=2, help="threads (default 2)")
    options = parser.parse_args(arguments)
    if options.after and (options.midi or options.fonts):
        parser.error("--after makes a bundle of music alone: no --midi, no --fonts")
    if options.after and options.after.resolve() == options.out.resolve():
        parser.error("OUT.pyz and --after are the same file")
    if not 6 <= options.kbps <= 256:
        parser.error(f"--kbps {options.kbps:g}: Opus has 6 to 256 for a channel")
    if not options.after and not (options.midi and options.fonts):
        parser.error("--midi and --fonts are needed, or --after")
    return options


@errors_told()
def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    check_fonts(options.fonts)
    if not options.after:
        fetch_wheels(options.wheels)
    with ThreadPoolExecutor(options.jobs) as pool, whole_file(options.out, force=True) as temporary:
        words = write(temporary, options, pool)
    for font in options.fonts:
        print(f"{font.name}: {origin(font)['licence']}")
    print(f"wrote {options.out}: {options.out.stat().st_size / 2**20:.2f} MiB, {words}")


if __name__ == "__main__":
    main()
