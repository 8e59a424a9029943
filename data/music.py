"""Build a corpus of real music: 20 s excerpts of the music in 14 Debian games.

    python data/music.py OUT --hours 6 --cache ~/.cache/audiovae-debian

Needs audiovae, `apt-get` and `dpkg-deb` (any Debian 12; run `apt-get update` once). The
packages are 3.6 GB, 1.4 GB of it 0ad-data (`--skip 0ad-data` leaves it out); 24 h of music are in them.
Excerpts never overlap and are spread evenly over the tracks. A track is wholly in one split; copies are left out.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

import debian
from corpus import SAMPLE_RATE, SILENCE_RMS, Row, above_zero, build, errors_told, one_or_more, recipe_of, rms, split_of

MARGIN_SECONDS = 3.0  # left out at both ends of a track: fades and silence
MIN_SAMPLE_RATE = 32000


@dataclass(frozen=True)
class Source:
    """A Debian package with music: its part of the corpus, where its music lies, and under what licence."""

    package: str
    share: float
    wanted: str
    licence: str


SOURCES = (
    Source("wesnoth-1.16-music", 0.16, r"\.ogg$", "GPL-2+"),
    Source("0ad-data", 0.17, r"/music/.*\.ogg$", "CC-BY-SA-3.0"),
    Source("widelands-data", 0.07, r"/music/.*\.ogg$", "GPL-2+, 3 tracks CC-BY-SA-3.0"),
    Source("unknown-horizons", 0.05, r"/music/.*\.ogg$", "CC-BY-SA-3.0, Peer Gynt: public domain"),
    Source("flare-game", 0.05, r"/music/.*theme\.ogg$", "CC-BY-SA-3.0"),
    Source("freecol", 0.03, r"/music/.*\.ogg$", "CC-BY-4.0"),
    Source("supertux-data", 0.07, r"/music/.*\.ogg$", "GPL-2+"),
    Source("naev-data", 0.08, r"/music/.*\.ogg$", "per track: GPL-2+, GPL-3, GPL-3+, CC-BY-3.0 or CC-BY-SA-3.0"),
    Source("singularity-music", 0.05, r"\.ogg$", "CC-BY-SA-3.0"),
    Source("warzone2100-music", 0.07, r"\.opus$", "GPL-2+"),
    Source("ufoai-music", 0.07, r"\.ogg$", "per track: GPL-2, CC-BY-3.0, CC-BY-SA-3.0 or public domain"),
    Source("nexuiz-music", 0.04, r"\.ogg$", "GPL-2+"),
    Source("hedgewars-data", 0.06, r"/Music/.*\.ogg$", "GPL-2"),
    Source("hyperrogue-music", 0.03, r"/music/.*\.ogg$", "CC-BY-SA-3.0"),
)

# The clips in data/examples come from these: no model may have trained on what it is shown with.
EXAMPLE_TRACKS = {
    "freecol": ("founders", "musicbox"),
    "naev-data": ("ambiphonic",),
    "ufoai-music": ("van_theme",),
    "unknown-horizons": ("Peer Gynt",),
}

# Recordings that another game has too, under another name and in train: as test they would have been heard in training.
# The first is supertux-data's battle_theme, mastered differently; the second is ingame_14 of the same package.
COPIES = {
    "flare-game": ("battle_theme.ogg",),
    "widelands-data": ("menu.ogg",),
}


@dataclass(frozen=True)
class Excerpt:
    """A stretch of one track."""

    source: Source
    path: Path
    track: str
    split: str
    start: float
    seconds: float

    @property
    def file(self) -> Path:
        name = "".join(c if c.isalnum() else "_" for c in Path(self.track).stem)
        return Path(self.split) / f"{self.source.package}__{name}__{self.start:07.2f}.flac"


def split(package: str, track: str, index: int) -> str:
    """Return the split of a track; those behind the example clips are always test."""
    shown = any(part in track for part in EXAMPLE_TRACKS.get(package, ()))
    return "test" if shown else split_of(index)


def spread(durations: list[float], excerpts: int, seconds: float) -> list[list[float]]:
    """Return the starts of about `excerpts` excerpts, as evenly over the tracks and within each as they fit."""
    room = [int((duration - 2 * MARGIN_SECONDS) // seconds) for duration in durations]
    counts = [0] * len(durations)
    for _ in range(min(excerpts, sum(room))):
        open_tracks = [i for i in range(len(counts)) if counts[i] < room[i]]
        counts[min(open_tracks, key=lambda i: (counts[i], i))] += 1
    starts = []
    for duration, count in zip(durations, counts, strict=True):
        gap = (duration - 2 * MARGIN_SECONDS - count * seconds) / max(count, 1)
        starts.append([round(MARGIN_SECONDS + gap * (i + 0.5) + i * seconds, 2) for i in range(count)])
    return starts


def plan(source: Source, folder: Path, hours: float, seconds: float) -> list[Excerpt]:
    """Choose the excerpts of one package."""
    tracks = []
    for path in debian.files(folder, source.wanted):
        info = soundfile.info(path)
        if info.samplerate >= MIN_SAMPLE_RATE and info.duration >= seconds + 2 * MARGIN_SECONDS + 2:
            tracks.append((path, info.duration))
    starts = spread([duration for _, duration in tracks], round(hours * 3600 / seconds), seconds)
    excerpts = []
    for index, ((path, _), track_starts) in enumerate(zip(tracks, starts, strict=True)):
        if path.name in COPIES.get(source.package, ()):
            continue  # counted above all the same, so that the other tracks keep their splits and excerpts
        track = path.relative_to(folder).as_posix()
        part = split(source.package, track, index)
        excerpts += [Excerpt(source, path, track, part, start, seconds) for start in track_starts]
    print(f"{source.package}: {len(tracks)} tracks, {len(excerpts)} excerpts", flush=True)
    return excerpts


def read_mono(path: Path, start: float, seconds: float) -> np.ndarray:
    """Read a stretch of a track as the mean of its channels, at 44.1 kHz."""
    with soundfile.SoundFile(path) as track:
        rate = track.samplerate
        track.seek(round(start * rate))
        audio = track.read(round(seconds * rate), dtype="float32", always_2d=True).mean(axis=1)
    return audio if rate == SAMPLE_RATE else soxr.resample(audio, rate, SAMPLE_RATE)


def make(excerpt: Excerpt) -> tuple[np.ndarray, Row] | None:
    """Read one excerpt, unless it is silent."""
    audio = read_mono(excerpt.path, excerpt.start, excerpt.seconds)
    if rms(audio) < SILENCE_RMS:
        return None
    return audio, {
        "package": excerpt.source.package,
        "track": excerpt.track,
        "licence": excerpt.source.licence,
        "start_seconds": excerpt.start,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--hours", type=above_zero, default=6.0, help="of audio, all splits together (default 6)")
    parser.add_argument("--seconds", type=above_zero, default=20.0, help="length of an excerpt (default 20)")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/audiovae-debian"), help="keeps the packages")
    packages = [source.package for source in SOURCES]
    parser.add_argument(
        "--skip", action="append", default=[], choices=packages, metavar="PACKAGE", help="may be repeated"
    )
    parser.add_argument("--jobs", type=one_or_more, default=2, help="threads (default 2)")
    return parser.parse_args()


@errors_told()
def main() -> None:
    arguments = parse_arguments()
    sources = [source for source in SOURCES if source.package not in arguments.skip]
    whole = sum(source.share for source in sources)
    cache = arguments.cache.expanduser()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        folders = pool.map(lambda source: debian.unpack(source.package, source.wanted, cache), sources)
        excerpts: list[Excerpt] = []
        for source, folder in zip(sources, folders, strict=True):
            excerpts += plan(source, folder, arguments.hours * source.share / whole, arguments.seconds)
        build(arguments.out, excerpts, make, pool, recipe_of(arguments, "cache"))


if __name__ == "__main__":
    main()
