"""``audiovae encode`` and ``audiovae decode``."""

from pathlib import Path
from typing import Annotated

import typer

from audiovae.cli import options
from audiovae.cli.report import Report
from audiovae.cli.results import result_folder

SHOWN_FAILURES = 10


def encode(
    paths: Annotated[
        list[Path], options.PathArgument(metavar="PATH...", help="Recordings, and folders of recordings.")
    ],
    out: Annotated[
        Path, options.PathOption(metavar="DATASET", help="Folder for the latents; a second run adds to it.")
    ],
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Encode again what is done already.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Turn recordings into latents files, one for each; what is done already is skipped."""
    from dataclasses import asdict

    from audiovae.cli.sound_folder import describe_codec
    from audiovae.codec import load
    from audiovae.encoding import encode_dataset, find_recordings

    report = Report(as_json=as_json, quiet=quiet)
    recordings = find_recordings(paths)
    codec = load(checkpoint, device=device)
    with report.progress("encoding") as advance:
        outcome = encode_dataset(codec, recordings, out, force=force, progress=advance)
    for failure in outcome.failures[:SHOWN_FAILURES]:
        typer.echo(f"audiovae: {failure.source}: {failure.reason}", err=True)
    counts = f"{len(outcome.written)} encoded, {len(outcome.skipped)} done before, {len(outcome.failures)} failed"
    listed = f" (all in {out / 'failures.jsonl'})" if outcome.failures else ""
    report.finish(f"wrote {out}: {counts}{listed}", describe_codec(codec) | {"dataset": str(out)} | asdict(outcome))
    if outcome.failures:
        raise typer.Exit(1)


def decode(
    latents: Annotated[
        Path, options.PathArgument(metavar="DATASET|FILE", help="A folder of latents files, or one of them.")
    ],
    out: options.FolderOption,
    format: options.FormatOption = "wav",
    checkpoint: options.CheckpointOption = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Turn latents files into audio again."""
    from audiovae.cli.sound_folder import describe_codec, say_gains
    from audiovae.codec import load
    from audiovae.encoding import audio_names, decode_dataset, find_latents

    report = Report(as_json=as_json, quiet=quiet)
    files = find_latents(latents)
    names = audio_names(files, format)
    with result_folder(out, names, force=force) as folder, report.progress("decoding") as advance:
        codec = load(checkpoint, device=device)
        gains_db = decode_dataset(codec, files, [folder / name for name in names], quality=quality, progress=advance)
    made = [{"name": name, "gain_db": gain} for name, gain in zip(names, gains_db, strict=True)]
    say_gains(report, made)
    facts = {"settings": {"quality": quality, "format": format}, "files": made}
    written = [str(out / name) for name in names]
    report.finish(
        f"wrote {out}: {len(names)} recording{'s' * (len(names) > 1)}",
        describe_codec(codec) | facts | {"written": written},
    )
