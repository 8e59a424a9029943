"""In-betweens of scores each of whose parts moves by an interval of its own, beside the truth.

    python tests/benchmarks/polyphony.py MIDI_FOLDER SOUNDFONT [--scores 20] [--write tests/benchmarks/in_betweens.md]

Five seconds of each of --scores works that were not trained on (data/scores.py), two to four of whose parts are played,
in a scoring drawn at random. Every part is played alone; a phase vocoder (librosa's) transposes it, by up to 2.5
semitones one way for the first end, and by as much the other way for the last, so that what lies between is known.
Both ends have the same rhythm and instruments, but different harmony.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from document import table, write_block
from jaxtyping import Float
from torch import Tensor

import audiovae
from audiovae.evaluation.in_betweens import (
    ONE_RHYTHM,
    WEIGHTS,
    known_in_betweens,
    of_several_pitches,
    pitch_shifted,
)
from audiovae.evaluation.tables import in_between_table

DATA = Path(__file__).parents[2] / "data"
SECONDS, PARTS, LEAST_NOTES = 5.0, 4, 40
LARGEST_MOVE_SEMITONES = 5.0
SEED = 5

Played = Float[np.ndarray, "parts samples"]


def scores_played(folder: Path, font: Path, count: int, draw: random.Random) -> Iterator[Played]:
    """The parts of stretches of so many scores, each played alone."""
    sys.path.insert(0, str(DATA))
    import midi
    import scores
    import soundfont

    pieces = sorted(folder.glob("*.mid"))
    split = scores.splits(pieces)
    unseen = [piece for piece in pieces if split[scores.work_of(piece)] == "test"]
    for piece in draw.sample(unseen, len(unseen)):
        notes = [note for note in midi.read(piece) if note.part < PARTS]
        if len(notes) < LEAST_NOTES:
            continue
        notes = scores.perform(scores.stretch(notes, SECONDS, draw), draw)
        parts = sorted({note.part for note in notes})
        if len(parts) < 2:
            continue
        programmes = scores.score(scores.SCORINGS[draw.choice(sorted(scores.SCORINGS))], 1 + max(parts))
        alone = ([replace(note, part=0) for note in notes if note.part == part] for part in parts)
        made = [
            soundfont.render(font, its, [programmes[part]], SECONDS) for part, its in zip(parts, alone, strict=True)
        ]
        print(f"{piece.name}, {len(parts)} parts", file=sys.stderr)
        yield np.stack(made).mean(axis=2)
        count -= 1
        if count == 0:
            return


def true_path(played: Played, sample_rate: int, draw: random.Random) -> list[Float[Tensor, "1 samples"]]:
    """Sounds from one end to the other, each part by its own interval."""
    moves = [draw.uniform(-LARGEST_MOVE_SEMITONES, LARGEST_MOVE_SEMITONES) for _ in played]

    def sound(weight: float) -> Float[Tensor, "1 samples"]:
        parts = zip(played, moves, strict=True)
        shifted = [pitch_shifted(part, sample_rate, (weight - 0.5) * move) for part, move in parts]
        return torch.from_numpy(np.sum(shifted, axis=0)).float()[None]

    return [sound(weight) for weight in WEIGHTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="MIDI_FOLDER")
    parser.add_argument("font", type=Path, metavar="SOUNDFONT")
    parser.add_argument("--scores", type=int, default=20)
    parser.add_argument("--write", type=Path, help="document whose block 'polyphony' the table goes into")
    arguments = parser.parse_args()
    codec, draw = audiovae.load(device="cpu"), random.Random(SEED)
    rate = codec.config.spectrogram.sample_rate
    played = scores_played(arguments.folder, arguments.font, arguments.scores, draw)
    paths = (true_path(parts, rate, draw) for parts in played)
    rows = known_in_betweens({"VAE": codec}, paths, lambda: None, ONE_RHYTHM)
    made = in_between_table(of_several_pitches(rows))
    text = table(made.header, made.rows)
    print(text)
    if arguments.write:
        write_block(arguments.write, "polyphony", text)


if __name__ == "__main__":
    main()
