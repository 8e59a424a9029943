"""What ``audiovae evaluate`` measures of the bundled model, as tables for the documents.

    python tests/benchmarks/reconstruction.py FOLDER... [--clips 40] [--checkpoint FILE] [--compare NAME=FILE]
        [--trained-on FOLDER...] [--out DIR] [--write DOCUMENT]... [--blocks PREFIX]

It measures --clips of each folder, spread evenly (for instance of corpus/music/test and corpus/notes/test, by the
recipes in data/). Each block is written, under a prefix if one is given, where a document has it: reconstruction
(models and ceilings), beside (the first model's log-mel error beside the others', clip by clip), models (the lecture's
claims side by side), truth (how far in-betweens are from it, in short), in-betweens (tones of different pitch, models
and controls), chords (whose notes move by intervals of their own), phrases (of different pitches and rhythms),
transposed (clips and the same clips transposed). Block trained-on tells what new sounds can hope for: how far from the
clips real sounds are that were trained on, of the same length in all, spread evenly over the folders of --trained-on.
``audiovae/evaluation`` says what the columns mean. Measures of clips are kept in --out: stop it, run it again, it goes
on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from document import table, write_block

import audiovae
from audiovae.evaluation.clips import SECONDS, find_clips, load_clip
from audiovae.evaluation.realism import SAMPLE_FRAMES, SAMPLES_OF_A_CLIP, Likeness, likeness
from audiovae.evaluation.records import TRUE_BANDS, Record
from audiovae.evaluation.run import Evaluation, evaluate, with_baselines
from audiovae.evaluation.summary import summarise
from audiovae.evaluation.tables import Table, in_between_table, lecture_table, reconstruction_table, truth_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--compare", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--trained-on", nargs="+", default=[], type=Path)
    parser.add_argument("--blocks", default="")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    parser.add_argument("--write", action="append", default=[], type=Path)
    arguments = parser.parse_args()
    compared = {}
    for one in arguments.compare:
        name, _, path = one.partition("=")
        compared[name] = audiovae.load(path, device="cpu")
    evaluation = evaluate(
        with_baselines(audiovae.load(arguments.checkpoint, device="cpu"), compared),
        find_clips(arguments.folders, limit=arguments.clips),
        arguments.out / "clips",
        quality=arguments.quality,
        progress=lambda done, total: print(f"{done}/{total}", end="\r", file=sys.stderr, flush=True),
    )
    tables = {
        "reconstruction": reconstruction_table(evaluation),
        "beside": beside(evaluation.records, list(evaluation.models)),
        "models": lecture_table(evaluation),
        "truth": truth_table(evaluation),
        "in-betweens": in_between_table(evaluation.tones["different pitch"]),
        "chords": in_between_table(evaluation.chords),
        "phrases": in_between_table(evaluation.phrases),
        "transposed": in_between_table(evaluation.transposed),
    }
    blocks = {name: table(made.header, made.rows) for name, made in tables.items()}
    if arguments.trained_on:
        found = trained_on(arguments.trained_on, evaluation)
        blocks["trained-on"] = (
            f"Sounds that were trained on: FD-MFCC {found.fd_mfcc:.0f}, {found.change_db:.2f} dB a frame."
        )
    for name, text in blocks.items():
        print(f"\n{text}")
        for document in arguments.write:
            if f"<!-- {arguments.blocks}{name} -->" in document.read_text(encoding="utf-8"):
                write_block(document, arguments.blocks + name, text)


def beside(records: Sequence[Record], models: Sequence[str]) -> Table:
    """The first model's log-mel error beside those of the others: clips differ more than models do on each of them."""
    first, *others = models
    rows = []
    for group in dict.fromkeys(record.clip.group for record in records):
        measures = [record.measures for record in records if record.clip.group == group]
        errors = {way: np.array([one[way]["log_mel_error_db"] for one in measures]) for way in (*models, TRUE_BANDS)}
        for other in others:
            less, beyond = errors[other] - errors[first], errors[other] - errors[TRUE_BANDS]
            shares = [f"{round(100 * float(less.mean() / of.mean()))} %" for of in (errors[other], beyond)]
            rows.append([group, f"{first} below {other}", summarise(less.tolist()).text(3), *shares])
    return Table(["audio", "", "log-mel error, dB", "of all the error", "of that beyond true bands"], rows)


def trained_on(folders: list[Path], evaluation: Evaluation) -> Likeness:
    """Of as much sound of these folders, coded by the first model, as is drawn of a prior."""
    codec = next(iter(evaluation.models.values()))
    seconds = SAMPLES_OF_A_CLIP * SAMPLE_FRAMES / codec.config.latent_rate * len(evaluation.records)
    clips = find_clips(folders, limit=round(seconds / SECONDS / len(folders)))
    real = torch.cat([record.features for record in evaluation.records])
    return likeness(codec, [codec.encode(load_clip(clip, codec)) for clip in clips], real)


if __name__ == "__main__":
    main()
