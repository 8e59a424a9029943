"""A latent dataset back to audio files."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from audiovae.audio_folder import SUFFIXES
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import name_text, text_name
from audiovae.latent_dataset.shards import find_shards
from audiovae.latent_dataset.torch_dataset import LatentDataset
from audiovae.latents import Latents
from audiovae.whole_file import name_for_windows, name_that_fits

LATENTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Stored:
    """Latents that are to be decoded."""

    source: str
    checkpoint: str
    load: Callable[[], Latents]


def find_latents(path: Path) -> list[Stored]:
    """The recordings of a dataset, one shard of it, or a latents file (``Latents.save``).

    Raises InputError for what can't be read, or holds none.
    """
    if path.suffix == LATENTS_SUFFIX and path.is_file():
        latents = Latents.load(path)
        name = name_text(path.name.removesuffix(LATENTS_SUFFIX).removesuffix(".latents"))
        stored = [Stored(name, latents.checkpoint, lambda: latents)]
    else:
        dataset = LatentDataset(path)
        sources: list[str] = dataset.facts["source"].to_pylist()
        checkpoint = dataset.settings.checkpoint
        stored = [Stored(source, checkpoint, partial(dataset.latents, index)) for index, source in enumerate(sources)]
    if not stored:
        raise InputError(f"{path}: no recording in it was encoded")
    return stored


def facts_of(path: Path) -> list[object]:
    """What tells one dataset or file from another: its path, and the size and date of each of its files."""
    files = [path] if path.is_file() else find_shards(path)
    looks = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [str(path.absolute()), looks]


def choose(path: Path, stored: Sequence[Stored], where: Sequence[str]) -> list[int]:
    """Places of those whose source is one of ``where``, or matches one as a glob; of all if it is empty.

    Raises InputError, which names the ``path`` that they were found at, for one that nothing matches.
    """
    if not where:
        return list(range(len(stored)))
    matching: set[str] = set()
    names = [normalize("NFC", item.source) for item in stored]  # a Mac's may have their accents apart
    for one in where:
        wanted = normalize("NFC", one)
        found = {
            item.source for item, name in zip(stored, names, strict=True) if name == wanted or fnmatchcase(name, wanted)
        }
        if not found:
            raise InputError(f"{path}: no encoded recording is named {one}")
        matching |= found
    return [place for place, item in enumerate(stored) if item.source in matching]


def audio_names(sources: Sequence[str], suffix: str) -> list[str]:
    """Paths for the audio of sources, below one folder whatever the sources are, and none twice.

    a.flac becomes a.wav; if there is a.mp3 too, they become a.flac.wav and a.mp3.wav. Of two that are called the
    same, the second becomes a (2).wav.
    """
    paths = [PurePosixPath(*_below(text_name(source))) for source in sources]
    plain = [path.with_suffix("") if path.suffix.lower() in SUFFIXES else path for path in paths]
    stems = Counter(str(path).lower() for path in plain)
    bases = [stem if stems[str(stem).lower()] == 1 else path for path, stem in zip(paths, plain, strict=True)]
    taken = {str(folder).lower() for base in bases for folder in base.parents}
    names = []
    for base in bases:
        name, count = str(base.with_name(name_that_fits(base.name, f".{suffix}"))), 2
        while name.lower() in taken:
            name, count = str(base.with_name(name_that_fits(base.name, f" ({count}).{suffix}"))), count + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _refuse(error: InputError) -> None:
    raise error


def decode_dataset(
    codec: Codec,
    stored: Sequence[Stored],
    targets: Sequence[Path],
    *,
    quality: str = "standard",
    force: bool = False,
    failed: Callable[[InputError], None] = _refuse,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float | None]:
    """Decodes latents to audio files; returns the gains in dB that kept them from clipping.

    Damaged rows are passed to ``failed``, and have None instead of a gain.

    Raises InputError if another checkpoint made them, before anything is written.
    """
    for one in stored:
        if one.checkpoint != codec.fingerprint:
            this = f"{codec.fingerprint} ({codec.checkpoint.source})"
            raise InputError(f"{one.source}: encoded by checkpoint {one.checkpoint}, this one is {this}")
    gains_db: list[float | None] = []
    for done, (one, target) in enumerate(zip(stored, targets, strict=True), start=1):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            latents = one.load()
        except InputError as error:
            failed(error)
            gains_db.append(None)
        else:
            gains_db.append(codec.save(latents, target, quality=quality, force=force))
        progress(done, len(stored))
    return gains_db


def _below(path: str) -> list[str]:
    """The parts of a path, without those that would lead out of the folder."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..", ".")] or ["recording"]
    return [name_for_windows(part) for part in parts] if sys.platform == "win32" else parts
