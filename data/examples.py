"""Remake the ten clips of data/examples from the Debian packages they come from.

    python data/examples.py --cache ~/.cache/audiovae-debian            # writes data/examples/
    python data/examples.py --check                                     # remakes them elsewhere and compares

Needs audiovae, tinysoundfont (`pip install --no-deps tinysoundfont`), `apt-get` and `dpkg-deb`;
takes half a minute once the packages (0.8 GB) are there. Clips are cut, brought to one level and faded, no more.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

import debian
from corpus import SAMPLE_RATE, errors_told, rms, write_flac
from soundfont import Note, render

FOLDER = Path(__file__).parent / "examples"
LEVEL_RMS = 0.1  # -20 dBFS
PEAK = 0.94
FADE_SECONDS = 0.01
CC0, CC_BY_3, CC_BY_4, PUBLIC_DOMAIN = "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "public domain"
LICENCE_TEXTS = {
    CC0: "https://creativecommons.org/publicdomain/zero/1.0/",
    CC_BY_3: "https://creativecommons.org/licenses/by/3.0/",
    CC_BY_4: "https://creativecommons.org/licenses/by/4.0/",
}


@dataclass(frozen=True)
class Clip:
    """Where a clip comes from: a stretch of a file in a package or, with `notes`, a SoundFont that plays them."""

    name: str
    title: str
    author: str
    licence: str
    package: str
    wanted: str
    start: float = 0.0
    seconds: float = 5.0
    channels: int = 1
    note: str = ""
    programme: int = 0
    notes: Sequence[Note] = ()


def melody(line: str, *, beats_a_minute: float, velocity: int) -> list[Note]:
    """Return the notes of a line of pitch:beats, one after the other."""
    notes, time = [], 0.0
    for word in line.split():
        pitch, beats = word.split(":")
        seconds = float(beats) * 60 / beats_a_minute
        notes.append(Note(time, seconds, int(pitch), velocity))
        time += seconds
    return notes


def broken_chords(chords: Sequence[Sequence[int]], *, step_seconds: float) -> list[Note]:
    """Return the figure of Bach's prelude: five notes up, the last three again, all of it twice a bar."""
    notes, step = [], 0
    for chord in chords:
        for _ in range(2):
            for place, pitch in enumerate([*chord, *chord[2:]]):
                held = (8 - place) if place < 2 else 1
                notes.append(Note(step * step_seconds, held * step_seconds, pitch, 66 + 12 * (place == 0)))
                step += 1
    return notes


PRELUDE = broken_chords(
    [(60, 64, 67, 72, 76), (60, 62, 69, 74, 77), (59, 62, 67, 74, 77), (60, 64, 67, 72, 76)], step_seconds=0.1
)
LARGO = melody("78:1.5 81:0.5 81:2 78:1.5 76:0.5 74:2 76:1 78:1", beats_a_minute=110, velocity=92)
ODE_TO_JOY = melody("54:1 54:1 55:1 57:1 57:1 55:1 54:1 52:1 50:2", beats_a_minute=110, velocity=92)


def rendered(name: str, title: str, programme: int, notes: Sequence[Note]) -> Clip:
    """Return a clip of old music played by a SoundFont."""
    return Clip(
        name,
        title,
        "rendered here",
        "MIT (the SoundFont); the music is in the public domain",
        "musescore-general-soundfont-small",
        r"/sf3/MuseScore_General_Lite\.sf3$",
        programme=programme,
        notes=notes,
    )


CLIPS = (
    Clip(
        "orchestra_grieg",
        "Edvard Grieg: Peer Gynt Suite No. 1, Morning",
        "Czech National Symphony Orchestra, Musopen Kickstarter Project",
        PUBLIC_DOMAIN,
        "unknown-horizons",
        r"/music/.*Peer Gynt.*\.ogg$",
        56.0,
        channels=2,
        note="the package's content as a whole is under CC-BY-SA-3.0; the recording's own tags name Musopen",
    ),
    Clip(
        "concerto_bach",
        "J. S. Bach: Brandenburg Concerto No. 2, first movement",
        "T. Willhoite (computer performance)",
        PUBLIC_DOMAIN,
        "gamine-data",
        r"/sounds/.*Brandenburg.*\.ogg$",
        4.0,
        channels=2,
    ),
    rendered("piano_bach", "J. S. Bach: Prelude in C, BWV 846", 0, PRELUDE),
    rendered("flute_dvorak", "Antonin Dvorak: New World, Largo", 73, LARGO),
    rendered("cello_beethoven", "L. van Beethoven: Ode to Joy", 42, ODE_TO_JOY),
    Clip("guitar", "guit_em9", "Sub-d", CC0, "sonic-pi-samples", r"/samples/guit_em9\.flac$"),
    Clip("music_box", "Musicbox", "Stian Grenborgen", CC_BY_4, "freecol", r"/music/.*/musicbox\.ogg$", 12.0),
    Clip("folk_founders", "Founders", "Alexander Zhelanov", CC_BY_4, "freecol", r"/music/.*/founders\.ogg$", 62.0),
    Clip("ambient", "Ambiphonic", "Zeropage", CC_BY_3, "naev-data", r"/music/ambiphonic\.ogg$", 100.0, channels=2),
    Clip(
        "cinematic",
        "UFO: AI Main Theme",
        'Manuel "Vanethian" Marino',
        CC_BY_3,
        "ufoai-music",
        r"/music/van_theme\.ogg$",
        60.0,
    ),
)


def cut(clip: Clip, path: Path) -> np.ndarray:
    """Read a clip from its track; return [samples, channels]."""
    with soundfile.SoundFile(path) as track:
        rate = track.samplerate
        track.seek(round(clip.start * rate))
        audio = track.read(round(clip.seconds * rate), dtype="float64", always_2d=True)
    return audio if rate == SAMPLE_RATE else soxr.resample(audio, rate, SAMPLE_RATE)


def finish(audio: np.ndarray, channels: int) -> np.ndarray:
    """Mix to mono where asked, remove a constant offset, bring to level, and fade both ends."""
    if channels == 1:
        audio = audio.mean(axis=1, keepdims=True)
    audio = audio - audio.mean(axis=0)
    fade = round(FADE_SECONDS * SAMPLE_RATE)
    ramp = np.linspace(0, 1, fade)[:, None]
    audio[:fade] *= ramp
    audio[-fade:] *= ramp[::-1]
    return audio * min(LEVEL_RMS / rms(audio), PEAK / np.abs(audio).max())


def make(clip: Clip, folder: Path, cache: Path) -> dict[str, Any]:
    """Write one clip and return its entry in examples.json."""
    source = next(debian.files(debian.unpack(clip.package, clip.wanted, cache), clip.wanted))
    if clip.notes:
        audio = render(source, clip.notes, [clip.programme], clip.seconds).astype(np.float64)
        changes = f"rendered with {source.name}, General MIDI programme {clip.programme}"
    else:
        audio = cut(clip, source)
        changes = "cut" if audio.shape[1] == clip.channels else "cut, mixed to mono"
    path = folder / f"{clip.name}.flac"
    write_flac(path, finish(audio, clip.channels))
    return {
        "file": path.name,
        "title": clip.title,
        "author": clip.author,
        "package": clip.package,
        "source": source.name,
        "start_seconds": clip.start,
        "licence": clip.licence,
        "note": clip.note,
        "changes": f"{changes}, level set, 10 ms fades",
        "seconds": clip.seconds,
        "channels": clip.channels,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def table(entries: Sequence[dict[str, Any]]) -> str:
    """Return the attribution of all clips as Markdown."""
    lines = [
        "# Example clips",
        "",
        "Made by `data/examples.py` (`--check` remakes and compares them); `examples.json` says the same to a machine,",
        "with checksums. The tracks the clips are cut from are never in train or valid of the corpora of `data/`.",
        "Keep the attributions when you pass clips on.",
        "",
        "| clip | title | author | licence | Debian package: file, start | s, channels | changes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        licence = f"{entry['licence']} ({entry['note']})" if entry["note"] else entry["licence"]
        source = f"{entry['package']}: {entry['source']}, {entry['start_seconds']:g} s"
        size = f"{entry['seconds']:g} s, {'stereo' if entry['channels'] == 2 else 'mono'}"
        cells = (entry["file"], entry["title"], entry["author"], licence, source, size, entry["changes"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", *(f"- {licence}: <{text}>" for licence, text in LICENCE_TEXTS.items())]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/audiovae-debian"), help="keeps the packages")
    parser.add_argument("--check", action="store_true", help="compare with data/examples, change nothing there")
    return parser.parse_args()


@errors_told()
def main() -> None:
    arguments = parse_arguments()
    cache = arguments.cache.expanduser()
    if not arguments.check:
        entries = [make(clip, FOLDER, cache) for clip in CLIPS]
        (FOLDER / "examples.json").write_text(json.dumps(entries, indent=2) + "\n")
        (FOLDER / "README.md").write_text(table(entries))
        return
    with tempfile.TemporaryDirectory() as scratch:
        remade = {entry["file"]: entry for entry in (make(clip, Path(scratch), cache) for clip in CLIPS)}
    kept = {entry["file"]: entry for entry in json.loads((FOLDER / "examples.json").read_text())}
    different = sorted(file for file in remade | kept if remade.get(file) != kept.get(file))
    sys.exit(f"different: {', '.join(different)}" if different else 0)


if __name__ == "__main__":
    main()
