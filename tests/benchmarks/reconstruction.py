"""What ``audiovae evaluate`` measures of the bundled model, as tables for the documents.

    python tests/benchmarks/reconstruction.py FOLDER... [--clips 40] [--checkpoint FILE] [--compare NAME=FILE]
        [--out DIR] [--write DOCUMENT] [--blocks PREFIX]

For each folder (for instance corpus/music/test and corpus/notes/test of the recipes in data/), of clips spread evenly
over it. Blocks of a document: reconstruction (models and ceilings), models (the lecture's claims side by side),
in-betweens (tones of different pitch, models and controls), phrases (of different pitches and rhythms), transposed
(clips and the same clips transposed); each, under a prefix if one is given, is written where the document has it.
``audiovae/evaluation`` says what the columns mean. Measures of clips are kept in --out: stop it, run it again, it goes
on.
"""

import argparse
import sys
from pathlib import Path

from document import table, write_block

import audiovae
from audiovae.evaluation.clips import find_clips
from audiovae.evaluation.run import evaluate, with_baselines
from audiovae.evaluation.tables import in_between_table, lecture_table, reconstruction_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--compare", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--blocks", default="")
    parser.add_argument("--out", type=Path, default=Path("evaluation"))
    parser.add_argument("--write", type=Path)
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
    blocks = {
        "reconstruction": reconstruction_table(evaluation),
        "models": lecture_table(evaluation),
        "in-betweens": in_between_table(evaluation.tones["different pitch"]),
        "phrases": in_between_table(evaluation.phrases),
        "transposed": in_between_table(evaluation.transposed),
    }
    for name, made in ((arguments.blocks + name, made) for name, made in blocks.items()):
        text = table(made.header, made.rows)
        print(f"\n{text}")
        if arguments.write and f"<!-- {name} -->" in arguments.write.read_text(encoding="utf-8"):
            write_block(arguments.write, name, text)


if __name__ == "__main__":
    main()
