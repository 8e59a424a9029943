"""``audiovae encode`` and ``audiovae decode``."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from audiovae.cli import options
from audiovae.cli.encode_progress import counts, encode_progress
from audiovae.cli.report import SHOWN_FAILURES, Report, one_line, tell_failures
from audiovae.cli.results import growing_folder
from audiovae.json_text import to_json

if TYPE_CHECKING:
    from audiovae.codec import Codec
    from audiovae.encoding.run import Encode, Outcome
    from audiovae.latent_dataset.schema import DatasetSettings

FEW_RECORDINGS = 32
"""So many are encoded sooner than processes have started."""
MOST_WORKERS = 32
# The same words as in encoding.resume and latent_dataset.schema, which are too heavy to import for --help.
Redo = Literal["missing", "changed", "content", "all"]
Precision = Literal["float16", "float32"]

InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Audio files, folders, globs in quotes, lists of paths (.txt), manifests (.jsonl), archives (.tar); "
        "all but archives also on s3:// and gs://.",
    ),
]
RedoOption = Annotated[
    Redo, typer.Option(help="What to encode: missing files; also those whose date or content changed; or all.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, max=256, help="Processes that decode; 0: decode in this one.", show_default="one a core"),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local", help="Encode on a Ray cluster, on its GPUs with --device cuda; needs audiovae\\[ray]."
    ),
]


def encode(
    inputs: InputsArgument,
    out: Annotated[
        Path, options.PathOption(metavar="DATASET", help="Folder of Parquet shards; a second run adds to it.")
    ],
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    workers: WorkersOption = None,
    ray: RayOption = None,
    redo: RedoOption = "missing",
    logvar: Annotated[bool, typer.Option("--logvar", help="Keep the posterior's log-variance too.")] = False,
    latent_channels: Annotated[
        int | None,
        typer.Option(min=1, help="Keep only the first N, which carry most: smaller, less true.", show_default="all"),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Type of the numbers in the dataset.")] = "float16",
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first recording that fails.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON events, one a line.")] = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Turn recordings into a dataset of latents; what is done already is skipped, so a run can be stopped any time."""
    if ray is not None and workers is not None:
        raise typer.BadParameter(
            "not with --ray, which starts as many processes as the cluster has room for", param_hint="--workers"
        )
    report = Report(as_json=as_json, quiet=quiet)
    with encode_progress(report, terminal=report.chatty and sys.stderr.isatty()) as tell:
        # Slow to import: an interrupt meanwhile is told as later ones are.
        from audiovae.codec import load
        from audiovae.encoding.inputs import find_recordings
        from audiovae.encoding.pipeline import settings_of
        from audiovae.encoding.run import encode_dataset, local_encoder

        recordings = find_recordings(inputs)
        # On a cluster the nodes have the devices; this machine writes the rows, and may have none.
        codec = load(checkpoint, device=device if ray is None else "cpu")
        settings = settings_of(codec, precision=precision, logvar=logvar, latent_channels=latent_channels)
        if ray is None:
            if workers is None:
                workers = min(MOST_WORKERS, os.cpu_count() or 1) if len(recordings) > FEW_RECORDINGS else 0
            encoder = local_encoder(codec, settings, workers=workers)
        else:
            encoder = _cluster_encoder(ray, checkpoint, device, settings)
        outcome = encode_dataset(recordings, out, settings, encoder, redo=redo, fail_fast=fail_fast, progress=tell)
    _finish(report, codec, out, outcome)


def _cluster_encoder(address: str, checkpoint: Path | None, device: str, settings: "DatasetSettings") -> "Encode":
    from audiovae.encoding.cluster import ray_encoder

    path = None if checkpoint is None else str(checkpoint.absolute())
    return ray_encoder(address, path, settings, device=device, gpus=1.0 if device == "cuda" else 0.0)


def _finish(report: Report, codec: "Codec", out: Path, outcome: "Outcome") -> None:
    from audiovae.cli.sound_folder import describe_codec

    for shard in outcome.damaged:
        told = "was damaged and set aside; of its recordings, only those among the inputs were encoded again"
        typer.echo(one_line(f"audiovae: {shard}: {told}"), err=True)
    tell_failures([f"{failure.source}: {failure.reason}" for failure in outcome.failures])
    line = f"{outcome.encoded} encoded, {outcome.done_before} done before, {len(outcome.failures)} failed"
    if outcome.changed:
        line += f"; {outcome.changed} changed since they were encoded (--redo changed encodes them again)"
    if len(outcome.failures) > SHOWN_FAILURES:
        line += " (all are in the dataset, by their status)"
    if report.as_json:
        facts: dict[str, Any] = {"event": "finished"} | describe_codec(codec) | {"dataset": str(out)} | counts(outcome)
        facts |= {"failures": [asdict(one) for one in outcome.failures], "stopped": outcome.stopped}
        typer.echo(to_json(facts | {"written": [str(shard) for shard in outcome.shards]}))
    else:
        report.finish(f"{'stopped' if outcome.stopped else 'wrote'} {out}: {line}", {})
    if outcome.failures:
        raise typer.Exit(1)


def decode(
    dataset: Annotated[Path, options.PathArgument(metavar="DATASET|FILE", help="A latent dataset, or a latents file.")],
    out: options.FolderOption,
    where: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE", help="Only this source, or those a glob matches; repeatable.")
    ] = None,
    format: options.FormatOption = "wav",
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Turn a dataset of latents, or a part of it, into audio again; a run can be stopped any time."""
    from audiovae.cli.sound_folder import describe_codec
    from audiovae.codec import load
    from audiovae.encoding.restore import audio_names, choose, decode_dataset, facts_of, find_latents

    report = Report(as_json=as_json, quiet=quiet)
    everything = find_latents(dataset)
    # Named beside all others: a part is called what it is called in the whole.
    all_names = audio_names([one.source for one in everything], format)
    chosen = choose(dataset, everything, where or [])
    stored = {all_names[place]: everything[place] for place in chosen}
    settings = {"quality": quality, "format": format}
    made_with = to_json(settings | {"latents": facts_of(dataset)})
    with (
        growing_folder(out, list(stored), made_with, force=force) as left,
        report.progress("decoding") as advance,
    ):
        codec = load(checkpoint, device=device)
        latents, targets = [stored[name] for name in left], [out / name for name in left]
        failures: list[str] = []
        gains_db = decode_dataset(
            codec,
            latents,
            targets,
            quality=quality,
            force=force,
            failed=lambda error: failures.append(str(error)),
            progress=advance,
        )
    gain_db = dict(zip(left, gains_db, strict=True))
    made = [{"name": name, "gain_db": gain_db.get(name)} for name in stored if (out / name).exists()]
    facts = {"settings": settings, "files": made, "written": [str(out / one["name"]) for one in made]}
    facts = describe_codec(codec) | facts | {"failures": failures}
    _finish_decoding(report, out, facts, done_before=len(stored) - len(left))


def _finish_decoding(report: Report, out: Path, facts: dict[str, Any], *, done_before: int) -> None:
    from audiovae.cli.sound_folder import say_gains

    made, failures = facts["files"], facts["failures"]
    tell_failures([f"{reason} (encode --redo all makes it anew)" for reason in failures])
    say_gains(report, made)
    line = f"wrote {out}: {len(made)} recording{'s' * (len(made) != 1)}"
    line += f", {done_before} of them done before" if done_before else ""
    line += f", {len(failures)} failed" if failures else ""
    report.finish(line, facts)
    if failures:
        raise typer.Exit(1)
