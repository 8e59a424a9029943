"""Build a corpus of single notes: every General MIDI instrument and the drum kit, played by SoundFonts.

    python data/notes.py OUT --train TimGM6mb.sf2 FluidR3Mono_GM.sf3 --test MuseScore_General_Lite.sf3

Needs audiovae and tinysoundfont (`pip install --no-deps tinysoundfont`: its dependency pyaudio is for
live sound), and SoundFonts (`apt-get download timgm6mb-soundfont fluidr3mono-gm-soundfont
musescore-general-soundfont-small`, each opened by `dpkg -x`). A file holds eight notes of one instrument,
three seconds each; the manifest has pitch, velocity and start of every note.
"""

import argparse
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np

from corpus import SAMPLE_RATE, Row, above_zero, begin_worker, build, errors_told, one_or_more, recipe_of, rms
from soundfont import DRUMS, Note, check_fonts, family, origin, render

VOICES = (*range(120), DRUMS)  # General MIDI without its sound effects
PITCHES = range(24, 97)
DRUM_KEYS = range(35, 82)
VELOCITIES: tuple[int, ...] = (40, 70, 100, 124)
NOTES_PER_FILE = 8
NOTE_SECONDS = 3.0
HELD_SECONDS = 2.2
FADE_SECONDS = 0.05
PEAK = 0.7
SILENCE_RMS = 3e-4  # of a single soft note, before its file is brought to PEAK
VALID_SHARE = 0.1  # of the hours for training


@dataclass(frozen=True)
class NoteFile:
    """Eight notes of one instrument; `candidates` are (pitch, velocity), silent ones are passed over."""

    font: Path
    programme: int
    split: str
    number: int
    candidates: tuple[tuple[int, int], ...]

    @property
    def file(self) -> Path:
        return Path(self.split) / f"{self.font.stem}__{self.programme:03d}__{self.number:03d}.flac"


def is_valid_pitch(pitch: int) -> bool:
    """Every ninth pitch is heard in valid only: all twelve pitch classes take their turn."""
    return pitch % 9 == 4


def candidates(font: Path, programme: int, split: str, seed: int) -> list[tuple[int, int]]:
    """Return all (pitch, velocity) of an instrument that belong to a split, shuffled."""
    keys = list(DRUM_KEYS if programme == DRUMS else PITCHES)
    if split != "test":
        keys = [key for key in keys if is_valid_pitch(key) == (split == "valid")]
    pairs = list(product(keys, VELOCITIES))
    random.Random(f"{seed} {font.name} {programme} {split}").shuffle(pairs)
    return pairs


def plan(font: Path, split: str, hours: float, seed: int) -> list[NoteFile]:
    """Spread the hours of one SoundFont and split over the instruments, in random order."""
    voices = list(VOICES)
    random.Random(f"{seed} {font.name} {split}").shuffle(voices)
    wanted = round(hours * 3600 / (NOTES_PER_FILE * NOTE_SECONDS))
    turns = list(islice(cycle(voices), wanted))
    files = []
    for programme in voices:
        pairs, count = candidates(font, programme, split, seed), turns.count(programme)
        files += [NoteFile(font, programme, split, n, tuple(pairs[n::count])) for n in range(count)]
    return files


def play(font: Path, programme: int, pitch: int, velocity: int) -> np.ndarray:
    """Render one note to mono, faded out at its end."""
    note = Note(0.0, HELD_SECONDS, pitch, velocity)
    audio = render(font, [note], [programme], NOTE_SECONDS).mean(axis=1)
    fade = round(FADE_SECONDS * SAMPLE_RATE)
    audio[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return audio


def make(job: NoteFile) -> tuple[np.ndarray, Row] | None:
    """Render the first eight candidates that sound, with the loudness their velocity gives them."""
    played, labels = [], []
    for pitch, velocity in job.candidates:
        if len(played) == NOTES_PER_FILE:
            break
        audio = play(job.font, job.programme, pitch, velocity)
        if rms(audio) >= SILENCE_RMS:
            start = len(played) * NOTE_SECONDS
            labels.append({"start_seconds": start, "pitch": pitch, "velocity": velocity})
            played.append(audio)
    if not played:
        return None
    audio = np.concatenate(played)
    programme = {"programme": job.programme, "family": family(job.programme)}
    return audio * (PEAK / np.abs(audio).max()), origin(job.font) | programme | {"notes": labels}


def plan_all(arguments: argparse.Namespace) -> Sequence[NoteFile]:
    files: list[NoteFile] = []
    for font in arguments.train:
        hours = arguments.hours / len(arguments.train)
        files += plan(font, "train", hours * (1 - VALID_SHARE), arguments.seed)
        files += plan(font, "valid", hours * VALID_SHARE, arguments.seed)
    for font in arguments.test:
        files += plan(font, "test", arguments.test_minutes / 60 / len(arguments.test), arguments.seed)
    return files


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="SOUNDFONT", help="for train and valid")
    parser.add_argument("--test", type=Path, nargs="*", default=[], metavar="SOUNDFONT", help="for test only")
    parser.add_argument("--hours", type=above_zero, default=2.5, help="of train and valid together (default 2.5)")
    parser.add_argument("--test-minutes", type=above_zero, default=10.0, help="(default 10)")
    parser.add_argument("--jobs", type=one_or_more, default=2, help="processes (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@errors_told()
def main() -> None:
    arguments = parse_arguments()
    check_fonts(arguments.train + arguments.test)
    with ProcessPoolExecutor(arguments.jobs, initializer=begin_worker) as pool:
        build(arguments.out, plan_all(arguments), make, pool, recipe_of(arguments))


if __name__ == "__main__":
    main()
