"""``audiovae train-prior``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovae.cli import options
from audiovae.cli.models import say_cache
from audiovae.cli.report import Report

if TYPE_CHECKING:
    from audiovae.training.prior import PriorOutcome, PriorProgress


def train_prior(
    folder: Annotated[
        Path,
        options.PathArgument(
            metavar="RUN",
            help="Folder of a finished training run; with --from, a new folder, or one begun in this way.",
        ),
    ],
    start: Annotated[
        Path | None,
        options.PathOption("--from", metavar="FILE", help="The model; bundled is the one in the package."),
    ] = None,
    flow_of: Annotated[
        Path | None,
        options.PathOption(
            "--flow",
            metavar="FILE",
            help="Go on from this model's flow: for one that was tuned, --flow bundled saves most of the steps.",
            show_default="the model's own",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in all; with more, a finished prior goes on.", show_default="6000")
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(min=2, help="Segments of 3 s to learn from, 66 kB each.", show_default="16384"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="N", min=0, help="Save the state and end after this time.")
    ] = None,
    data: Annotated[
        Path | None,
        options.PathOption(
            metavar="DIR", help="Folder of audio files; required with --from.", show_default="the run's"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in data.shares={mine=0.5}; repeatable.")
    ] = None,
    cache: Annotated[
        Path | None, options.PathOption(metavar="DIR", help="Folder for the decoded audio.", show_default="the run's")
    ] = None,
    device: options.DeviceOption = "auto",
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Train the prior that a finished model draws new sounds from, on a folder of audio; run again, it goes on."""
    from audiovae.training import adoption
    from audiovae.training import run as training

    if other := next((one for one in overrides or [] if not one.strip().startswith("data.")), None):
        raise typer.BadParameter(f"{other}: a prior has no settings but those of data", param_hint="--set")
    training.require(device)
    flow = training.load_start(flow_of) if flow_of else None
    report = Report(as_json=as_json, quiet=quiet)
    if start is None:
        run = training.resumed_run(folder, overrides or [], data=data, cache=cache)
    else:
        run = adoption.adopted_run(folder, overrides or [], start=start, data=data, cache=cache)
    from audiovae.training.prior import PriorWatch
    from audiovae.training.prior import train_prior as train_its_prior

    with report.progress("decoding, encoding, training") as advance:
        watch = PriorWatch(
            decoded=advance,
            opened=lambda cache: say_cache(cache, report),
            encoded=advance,
            stepped=lambda at: advance(at.step, at.steps, _prior_figures(at)),
        )
        outcome = train_its_prior(
            run, steps=steps, segments=segments, minutes=minutes, device=device, flow_of=flow, watch=watch
        )
    _finish_prior(folder, outcome, report)


def _prior_figures(progress: "PriorProgress") -> str:
    return f"loss {progress.loss:.3f}" + ("" if progress.error is None else f"  {_prior_error(progress.error)}")


def _prior_error(error: float) -> str:
    return f"error {error:.3f} of Gaussians'"


def _finish_prior(folder: Path, outcome: "PriorOutcome", report: Report) -> None:
    from audiovae.training.state import MODEL_FILE

    model, told = folder / MODEL_FILE, f"step {outcome.step}, {_prior_error(outcome.error)}"
    facts: dict[str, Any] = {
        "run": str(folder),
        "steps": outcome.step,
        "finished": outcome.is_finished,
        "prior_error": outcome.error,
        "written": [str(model)] if outcome.is_finished and outcome.is_better else [],
    }
    if not outcome.is_finished:
        report.finish(f"{folder}: time is up, state saved, the same command goes on: {told}", facts)
    elif not outcome.is_better:
        report.finish(f"{folder}: nothing was learnt, the model keeps the prior that it had: {told}", facts)
    else:
        report.finish(f"wrote {model}: {told}", facts)
