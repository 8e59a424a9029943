"""``audiovae evaluate``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiovae.cli import options
from audiovae.cli.report import Report, one_line, tell_failures

if TYPE_CHECKING:
    from audiovae.evaluation.run import Evaluation


def evaluate(
    clips: Annotated[
        list[Path] | None,
        options.PathArgument(
            metavar="[CLIPS...]", help="Recordings, and folders of them.", show_default="the examples"
        ),
    ] = None,
    out: Annotated[
        Path,
        options.PathOption(metavar="DIR", help="Folder for the report; a second run goes on where one was stopped."),
    ] = Path("evaluation"),
    checkpoint: options.CheckpointOption = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Another checkpoint beside it, such as an autoencoder; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Clips of each folder at most, spread evenly.")] = None,
    device: options.DeviceOption = "auto",
    quality: options.QualityOption = "standard",
    force: Annotated[
        bool, typer.Option("--force", help="Measure all again, and replace the report of another evaluation.")
    ] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Measure a model on recordings, beside ceilings and baselines; write a page with tables, pictures and sounds."""
    others = dict(_name_and_file(text) for text in compare or [])
    if len(others) < len(compare or []):
        raise typer.BadParameter("the same name is given twice", param_hint="--compare")
    from audiovae.codec import load
    from audiovae.evaluation.clips import example_folder, find_clips
    from audiovae.evaluation.report import FIGURES, PAGE, check_report, write_report
    from audiovae.evaluation.run import evaluate as run
    from audiovae.evaluation.run import with_baselines

    report = Report(as_json=as_json, quiet=quiet)
    found = find_clips(clips or [example_folder()], limit=limit)
    loaded = {name: load(path, device=device) for name, path in others.items()}
    models = with_baselines(load(checkpoint, device=device), loaded)
    settings = {
        "models": {name: codec.fingerprint for name, codec in models.items()},
        "quality": quality,
        "clips": [os.path.abspath(path) for path in clips or [example_folder()]],
        "limit": limit,
    }
    check_report(out, settings, force=force)
    with report.progress("evaluating") as advance:
        evaluation = run(models, found, out / "clips", quality=quality, force=force, progress=advance)
    facts = write_report(evaluation, out, settings)
    _say(evaluation, report)
    written = [str(out / PAGE), str(out / FIGURES)]
    report.finish(f"wrote {', '.join(written)}: {_counts(evaluation)}", facts | {"written": written})
    if evaluation.failures:
        raise typer.Exit(1)


def _name_and_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise typer.BadParameter(f"{text}: want NAME=FILE, as in AE=runs/ae/model.safetensors", param_hint="--compare")
    return name, Path(path)


def _say(evaluation: "Evaluation", report: Report) -> None:
    """The main figures, what is missing, and which clips failed."""
    tell_failures([f"{failure.clip}: {failure.reason}" for failure in evaluation.failures])
    for line in evaluation.not_measured:
        report.say(f"not measured: {line}")
    for group, ways in evaluation.reconstruction.items():
        errors = {way: measures["log_mel_error_db"] for way, measures in ways.items()}
        count = next(iter(errors.values())).count
        report.say(one_line(f"{group}, {count} clip{'s' * (count > 1)}, log-mel error in dB:"))
        report.say("  " + ",  ".join(f"{way} {error.text()}" for way, error in errors.items()))


def _counts(evaluation: "Evaluation") -> str:
    failed = f", {len(evaluation.failures)} failed" if evaluation.failures else ""
    count = len(evaluation.records)
    return f"{count} clip{'s' * (count != 1)}{failed}"
