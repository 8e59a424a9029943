"""What each setting bought, and what more training buys: runs side by side, by their logs.

    python tests/benchmarks/ablations.py RUN... [--clips FOLDER...] [--clips-each 4] [--out DIR] [--curve RUN]
        [--write DOCUMENT] [--block ablations]

Each RUN is a folder that `audiovae train` made. A row of the block tells the settings in which the run differs from the
first one, and its last validation: mean absolute errors of bands and mels in dB on held-out audio (no Griffin-Lim), KL
and active channels. Some losses make these errors small, others trade a little of that for sharpness. So with --clips
each row also has measures of sounds, those of `audiovae evaluate`, on clips spread evenly over each folder; the last
row is the ceiling. These measures are kept in --out: run again, it measures only what is new. Rows of `curve` show the
progress of one run: hours of audio heard, mean errors in training since the row before (on augmented segments), and
errors on held-out audio where they were measured.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from document import table, write_block

import audiovae
from audiovae.config import Config
from audiovae.evaluation.clips import Clip, find_clips
from audiovae.evaluation.in_betweens import clip_middles
from audiovae.evaluation.realism import realism
from audiovae.evaluation.records import TRUE_BANDS, Record, record_clip
from audiovae.evaluation.summary import summarise
from audiovae.evaluation.tables import RECONSTRUCTION

MODEL = "model"
TENTHS, FEW_VALIDATIONS = 10, 4
HELD_OUT = ["held-out error of bands, dB", "held-out error of mels, dB"]
HEADS = ["run", "what differs from the first", "steps", *HELD_OUT, "KL, nats a latent frame", "active"]
CURVE_HEADS = ["error of bands in training, dB", HELD_OUT[0], "error of mels in training, dB", HELD_OUT[1]]
MEASURES = ("log_mel_error_db", "zimtohrli_mos", "spectral_convergence_db")
REAL = ("reconstructions", "in-betweens", "new sounds, mixture", "new sounds, N(0, I)")
SOUND_HEADS = [*(RECONSTRUCTION[name] for name in MEASURES), *(f"{kind}: FD-MFCC ↓" for kind in REAL)]


def differences(config: dict[str, Any], first: dict[str, Any]) -> str:
    """The settings that aren't the first run's, as --set would have them."""
    changed = [
        f"{field}={json.dumps(value)}"
        for section, fields in config.items()
        for field, value in fields.items()
        if value != first[section][field] and field not in ("seed", "validate_every", "checkpoint_every")
    ]
    return ", ".join(changed) or "as the config"


def settings(run: Path) -> Config:
    """What the run was trained with; settings that are younger than it have their defaults, which change nothing."""
    return Config.from_json((run / "config.json").read_text(encoding="utf-8"), run / "config.json")


def log_rows(run: Path) -> list[dict[str, Any]]:
    """All of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def validations(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Step and figures of each."""
    return [(one["step"], one["validation"]) for one in log_rows(run) if "validation" in one]


def curve(run: Path) -> str:
    """Errors against the audio that was heard: at each validation, or, if there are few, at each tenth as well."""
    config, logged, held_out = settings(run), log_rows(run), dict(validations(run))
    segment_seconds = config.data.segment_latent_frames / config.latent_rate
    hours, last = config.training.batch_size * segment_seconds / 3600, logged[-1]["step"]
    tenths = {last * number // TENTHS for number in range(1, TENTHS + 1)} if len(held_out) < FEW_VALIDATIONS else set()
    rows = []
    for before, step in pairwise([-1, *sorted(held_out.keys() | tenths)]):
        since = [one for one in logged if "error_db" in one and before < one["step"] <= step]
        bands = f"{mean(one['error_db'] for one in since):.3f}" if since else ""
        mels = f"{mean(20 * one['log'] for one in since):.3f}" if since else ""
        validated = held_out_errors(held_out.get(step, {}))
        rows.append([str(step), f"{step * hours:.1f}", bands, validated[0], mels, validated[1]])
    return table(["step", "hours of audio heard", *CURVE_HEADS], rows)


def held_out_errors(validation: dict[str, Any]) -> list[str]:
    """Of the bands and of the mels, as far as they were measured."""
    errors = (validation.get(name) for name in ("error_db", "mel_error_db"))
    return ["" if error is None else f"{error:.3f}" for error in errors]


def row(run: Path, first: dict[str, Any]) -> list[str]:
    """A run's line of the table."""
    step, last = validations(run)[-1]
    active = f"{last['active_units']} of {last['channels']}"
    return [
        run.name,
        differences(settings(run).model_dump(), first),
        str(step),
        *held_out_errors(last),
        f"{last['kl']:.0f}",
        active,
    ]


def sounds(run: Path, clips: Sequence[Clip], folder: Path) -> tuple[list[str], list[str]]:
    """Measures of a run's newest model on clips, and those of its front end alone."""
    codec = audiovae.load(run / "model.safetensors", device="cpu")
    records = [
        record_clip(clip, {MODEL: codec}, folder, quality="standard", shown=False, force=False) for clip in clips
    ]
    real = torch.cat([record.features for record in records])
    latents = [record.latents[MODEL] for record in records]
    found = realism(codec, codec.prior, latents, clip_middles(codec, latents), real)
    ceiling = [*means(records, TRUE_BANDS), *[""] * len(REAL)]
    return [*means(records, MODEL), *(f"{found[kind].fd_mfcc:.0f}" for kind in REAL)], ceiling


def means(records: Sequence[Record], way: str) -> list[str]:
    """Over the clips, each with its 95 % confidence interval."""
    measured = [record.measures[way] for record in records]
    return [summarise([one[name] for one in measured if name in one]).text() for name in MEASURES]


def ablations(runs: Sequence[Path], clips: Sequence[Clip], folder: Path) -> str:
    """All runs, by their logs and, if there are clips, by their sounds."""
    first = settings(runs[0]).model_dump()
    rows = [row(run, first) for run in runs]
    if not clips:
        return table(HEADS, rows)
    found = [sounds(run, clips, folder) for run in runs]
    rows = [[*cells, *more] for cells, (more, _) in zip(rows, found, strict=True)]
    ceiling = [TRUE_BANDS, *[""] * (len(HEADS) - 1), *found[0][1]]
    return table([*HEADS, *SOUND_HEADS], [*rows, ceiling])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--clips", type=Path, nargs="+", default=[], metavar="FOLDER", help="of held-out audio")
    parser.add_argument("--clips-each", type=int, default=4, metavar="N", help="of each folder")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="keeps measures of clips")
    parser.add_argument("--curve", type=Path, metavar="RUN", help="show this run's way")
    parser.add_argument("--write", type=Path, help="a document with a block for this table")
    parser.add_argument("--block", default="ablations", help="the document's block for the table of runs")
    options = parser.parse_args()
    clips = find_clips(options.clips, limit=options.clips_each)
    blocks = {options.block: ablations(options.runs, clips, options.out / "clips")}
    if options.curve:
        blocks["curve"] = curve(options.curve)
    for name, text in blocks.items():
        print(text, end="\n\n")
        if options.write and f"<!-- {name} -->" in options.write.read_text(encoding="utf-8"):
            write_block(options.write, name, text)


if __name__ == "__main__":
    main()
