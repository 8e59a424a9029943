"""Build a corpus of classical music rendered from MIDI files, in ever new scorings.

    python data/scores.py OUT MIDI.tgz --fonts TimGM6mb.sf2 FluidR3Mono_GM.sf3 --hours 2.5

MIDI is a folder or .tgz of files named composer_work_movement.mid. Needs audiovae and tinysoundfont
(`pip install --no-deps tinysoundfont`) and SoundFonts (see notes.py). Every file is up to a minute of a piece,
with a scoring, key, tempo, dynamics and room drawn at random: scores hold none of the last three.
"""

import argparse
import random
import re
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import sin
from pathlib import Path

import numpy as np

import midi
from audiovae.errors import InputError
from corpus import (
    SAMPLE_RATE,
    SILENCE_RMS,
    Row,
    above_zero,
    begin_worker,
    build,
    errors_told,
    one_or_more,
    recipe_of,
    rms,
    split_of,
)
from soundfont import Note, check_fonts, origin, render

# General MIDI programmes, from the highest part to the lowest
SCORINGS = {
    "string quartet": (40, 40, 41, 42),
    "strings": (48,),
    "slow strings": (49,),
    "pizzicato": (45,),
    "winds": (73, 68, 71, 70),
    "brass": (56, 60, 57, 58),
    "choir": (52,),
    "organ": (19,),
    "reed organ": (20,),
    "piano": (0,),
    "harpsichord": (6,),
    "guitar": (24,),
    "harp": (46,),
    "orchestra": (73, 68, 48, 43),
    "mixed": (40, 71, 60, 42),
    "recorders": (74, 74, 71, 70),
    "saxophones": (64, 65, 66, 67),
    "marimba": (12,),
    "electric piano": (4,),
    "pad": (89, 91, 95, 89),
}
EXAMPLE_WORKS = ("bach_bwv846",)  # played in data/examples, hence test
# One chorale under two numbers, both in the collection: the first goes where the second is.
SAME_MUSIC = {
    "bach_bwv398": "bach_bwv197",
    "bach_bwv279": "bach_bwv158",
    "bach_bwv62": "bach_bwv274",
    "bach_bwv414": "bach_bwv253",
}
MAX_PARTS = 15
MIN_NOTES = 20
TAIL_SECONDS = 1.5
PIECE_SAMPLES = 1 << 18
PIECE_SUFFIX = re.compile(r"(_movement\w*|(?<=\d)\.[\w-]+|_[a-z]|_\d+)$")  # bach_bwv244.54 and bwv244.55: one work


@dataclass(frozen=True)
class Rendering:
    """A stretch of a score as one SoundFont plays it; `number` tells renderings of one piece apart."""

    midi: Path
    font: Path
    split: str
    number: int
    seconds: float
    seed: int

    @property
    def file(self) -> Path:
        name = "".join(c if c.isalnum() else "_" for c in self.midi.stem)
        return Path(self.split) / f"{name}__{self.number:02d}.flac"


def splits(pieces: Sequence[Path]) -> dict[str, str]:
    """Return the split of every work, so that movements of one, as file names have it, are never parted."""
    works = sorted({work_of(piece) for piece in pieces})
    split = {work: split_of(index) for index, work in enumerate(works)}
    same = {one: split[other] for one, other in SAME_MUSIC.items() if one in split and other in split}
    return split | same | dict.fromkeys(EXAMPLE_WORKS, "test")


def work_of(piece: Path) -> str:
    return PIECE_SUFFIX.sub("", piece.stem)


def plan(pieces: Sequence[Path], fonts: Sequence[Path], hours: float, seconds: float, seed: int) -> list[Rendering]:
    """Take one piece of each composer in turn, and begin anew, with other scorings, when none is left."""
    rng = random.Random(seed)
    by_composer: dict[str, list[Path]] = {}
    for piece in rng.sample(pieces, len(pieces)):
        by_composer.setdefault(piece.stem.split("_")[0], []).append(piece)
    order = [piece for turn in zip_longest(*by_composer.values()) for piece in turn if piece]
    split = splits(pieces)
    wanted = round(hours * 3600 / seconds)
    renderings = []
    for index in range(wanted):
        number, place = divmod(index, len(order))
        piece = order[place]
        renderings.append(Rendering(piece, rng.choice(fonts), split[work_of(piece)], number, seconds, seed))
    return renderings


def stretch(notes: Sequence[Note], seconds: float, rng: random.Random) -> list[Note]:
    """Cut a stretch out of a piece, at random and beginning with a note, and set its clock to 0."""
    last = max(notes[-1].start - seconds, notes[0].start)
    start = rng.choice([note.start for note in notes if note.start <= last])
    inside = [note for note in notes if start <= note.start < start + seconds]
    return [
        replace(note, start=note.start - start, seconds=min(note.seconds, start + seconds - note.start))
        for note in inside
    ]


def perform(notes: Sequence[Note], rng: random.Random) -> list[Note]:
    """Transpose by up to a major third and give the notes slow swells of loudness, and a little unevenness."""
    shift, phase, period = rng.randint(-4, 4), rng.uniform(0, 6), rng.uniform(1.5, 4)
    performed = []
    for note in notes:
        swell = 72 + 28 * sin(note.start / period + phase) + 10 * sin(note.start) + rng.uniform(-8, 8)
        pitch = min(max(note.pitch + shift, 12), 120)
        performed.append(replace(note, pitch=pitch, velocity=round(min(max(swell, 25), 120))))
    return performed


def score(scoring: Sequence[int], parts: int) -> list[int]:
    """Return the programme of every part: the scoring, stretched or thinned to their number."""
    return [scoring[part * len(scoring) // parts] for part in range(parts)]


def room(audio: np.ndarray, wet: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Add the echo of a room: noise that decays by 60 dB in `seconds`, softened a little."""
    length = round(seconds * SAMPLE_RATE)
    decay = 10.0 ** (-3.0 * np.arange(length) / length)
    echo = np.convolve(rng.standard_normal(length) * decay, np.full(4, 0.25))[:length]
    echo /= np.sqrt(np.sum(echo**2))
    return (1 - wet) * audio + wet * convolve(audio, echo.astype(np.float32))


def convolve(audio: np.ndarray, echo: np.ndarray) -> np.ndarray:
    """Convolve in pieces that fit a processor's cache (overlap-add): five times as fast as in one; as long as audio."""
    size = max(PIECE_SAMPLES, 1 << len(echo).bit_length())
    hop = size - len(echo) + 1
    spectrum = np.fft.rfft(echo, size)
    out = np.zeros(len(audio) + size, np.float32)
    for start in range(0, len(audio), hop):
        out[start : start + size] += np.fft.irfft(np.fft.rfft(audio[start : start + hop], size) * spectrum, size)
    return out[: len(audio)]


def make(job: Rendering) -> tuple[np.ndarray, Row] | None:
    """Render one stretch of a piece; a piece of hardly any notes gives nothing."""
    rng = random.Random(f"{job.seed} {job.midi.stem} {job.number}")
    tempo = rng.uniform(0.8, 1.25)
    notes = [note for note in midi.read(job.midi) if note.part < MAX_PARTS]
    if len(notes) < MIN_NOTES:
        return None
    slowed = [replace(note, start=note.start / tempo, seconds=note.seconds / tempo) for note in notes]
    notes = perform(stretch(slowed, job.seconds - TAIL_SECONDS, rng), rng)
    scoring = rng.choice(sorted(SCORINGS))
    programmes = score(SCORINGS[scoring], 1 + max(note.part for note in notes))
    seconds = max(note.start + note.seconds for note in notes) + TAIL_SECONDS
    audio = render(job.font, notes, programmes, seconds).mean(axis=1)
    if rms(audio) < SILENCE_RMS / 10:
        return None
    wet, decay, peak = rng.uniform(0.0, 0.35), rng.uniform(0.5, 2.2), rng.uniform(0.4, 0.95)
    audio = room(audio, wet, decay, np.random.default_rng(rng.randrange(1 << 30)))
    labels = {"score": job.midi.name, "work": work_of(job.midi), "scoring": scoring, "room": round(wet, 2)}
    return audio * (peak / np.abs(audio).max()), origin(job.font) | labels


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("midi", type=Path, metavar="MIDI", help="a folder or .tgz of .mid files")
    parser.add_argument("--fonts", type=Path, nargs="+", required=True, metavar="SOUNDFONT")
    parser.add_argument(
        "--hours", type=above_zero, default=2.5, help="at most; short pieces make it less (default 2.5)"
    )
    parser.add_argument("--seconds", type=above_zero, default=60.0, help="of a piece, at most (default 60)")
    parser.add_argument("--jobs", type=one_or_more, default=2, help="processes (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


@errors_told()
def main() -> None:
    arguments = parse_arguments()
    check_fonts(arguments.fonts)
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(arguments.jobs, initializer=begin_worker) as pool,
    ):
        folder = arguments.midi
        if folder.is_file():
            folder = Path(scratch)
            midi.check_archive(arguments.midi)
            with tarfile.open(arguments.midi) as archive:
                archive.extractall(folder, filter="data")
        pieces = sorted(folder.rglob("*.mid"))
        if not pieces:
            raise InputError(f"{arguments.midi}: no .mid files in it")
        jobs = plan(pieces, arguments.fonts, arguments.hours, arguments.seconds, arguments.seed)
        build(arguments.out, jobs, make, pool, recipe_of(arguments))


if __name__ == "__main__":
    main()
