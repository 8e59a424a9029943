"""``audiovae train`` and ``info``."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiovae.cli import options
from audiovae.cli.report import Report, one_line

if TYPE_CHECKING:
    from audiovae.checkpoint import Checkpoint
    from audiovae.training.data import Cache
    from audiovae.training.loop import Progress
    from audiovae.training.run import Outcome, Run, Watch
    from audiovae.training.validation import Validation

SHOWN_SKIPPED = 5
TUNING = "finetune"
"""The bundled config that is of no use from the start."""


def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A TOML file, or the name of a bundled config.")
    ] = None,
    data: Annotated[Path | None, options.PathOption(metavar="DIR", help="Folder of audio files.")] = None,
    out: Annotated[Path | None, options.PathOption(metavar="RUN", help="Folder for the run.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in training.batch_size=8; repeatable.")
    ] = None,
    resume: Annotated[Path | None, options.PathOption(metavar="RUN", help="Continue this run, without CONFIG.")] = None,
    cache: Annotated[
        Path | None,
        options.PathOption(metavar="DIR", help="Folder for the decoded audio.", show_default="RUN/../cache"),
    ] = None,
    start: Annotated[
        Path | None,
        options.PathOption(
            "--from", metavar="FILE", help="Start from this checkpoint; bundled is the one in the package."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="Save the state and end after this time; --resume goes on."),
    ] = None,
    device: options.DeviceOption = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace the run that is in RUN.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Train a model on a folder of audio; under torchrun on several devices."""
    _refuse_wrong_usage(config, data, out, resume, start, force=force)
    from audiovae.training import run as training

    if resume is not None:
        run = training.resumed_run(resume, overrides or [], data=data, cache=cache)
    else:
        assert config is not None and data is not None and out is not None
        run = training.new_run(config, overrides or [], data=data, folder=out, cache=cache, start=start, force=force)
    report = Report(as_json=as_json, quiet=quiet)
    with _watching(run, report) as watch:
        outcome = training.train(run, device=device, watch=watch, minutes=minutes)
    _finish_training(run, outcome, report)


def info(
    checkpoint: Annotated[
        Path | None, options.PathArgument(metavar="[CHECKPOINT]", help="A checkpoint.", show_default="the bundled one")
    ] = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Say what a checkpoint is: its settings, data, licence and measures."""
    from audiovae.checkpoint import load_checkpoint
    from audiovae.codec import BUNDLED_CHECKPOINT

    loaded = load_checkpoint(checkpoint or BUNDLED_CHECKPOINT)
    facts, report = _facts(loaded), Report(as_json=as_json, quiet=quiet)
    _say_table(facts, report)
    report.finish(f"read {loaded.source}: fingerprint {loaded.fingerprint}", facts)


def _refuse_wrong_usage(
    config: str | None, data: Path | None, out: Path | None, resume: Path | None, start: Path | None, *, force: bool
) -> None:
    if resume is not None:
        if config is not None or out is not None or start is not None or force:
            raise typer.BadParameter(
                "goes on as it began: leave out CONFIG, --out, --from and --force", param_hint="--resume"
            )
        return
    for name, value in (("CONFIG", config), ("--data", data), ("--out", out)):
        if value is None:
            raise typer.BadParameter("is missing (or --resume RUN instead)", param_hint=name)
    if config == TUNING and start is None:
        raise typer.BadParameter(
            f"is missing: {TUNING} tunes a trained model, such as --from bundled", param_hint="--from"
        )


class _Bars:
    """A bar for decoding, then one for the steps; without a terminal the figures are lines on stdout."""

    def __init__(self, run: "Run", report: Report) -> None:
        self.steps, self.report, self.open = run.config.training.steps, report, ExitStack()
        self.advance = self.open.enter_context(report.progress("decoding"))
        self.first: tuple[int, float] | None = None

    def opened(self, cache: "Cache") -> None:
        """From here on it is steps."""
        self.open.close()
        say_cache(cache, self.report)
        self.advance = self.open.enter_context(self.report.progress("training"))

    def stepped(self, progress: "Progress") -> None:
        """Shows the figures, and the speed since they came first."""
        now = time.monotonic()
        step, since = self.first = self.first or (progress.step, now)
        # A clock may tick so seldom, every 16 ms on Windows, that no time has passed.
        speed = f"  {(progress.step - step) / (now - since):.2f} steps/s" if now > since else ""
        self.advance(progress.step, self.steps, _figures(progress) + speed)


@contextmanager
def _watching(run: "Run", report: Report) -> Iterator["Watch"]:
    from audiovae.training.run import Watch

    bars = _Bars(run, report)
    with bars.open:
        yield Watch(decoded=bars.advance, opened=bars.opened, stepped=bars.stepped)


def _figures(progress: "Progress") -> str:
    skipped = f"  {progress.skipped_steps} skipped" if progress.skipped_steps else ""
    return (
        f"error {progress.error_db:.2f} dB  loss {progress.loss:.3f}  KL {progress.kl:.1f} nats  "
        f"rate {progress.learning_rate:.0e}{skipped}"
    )


def say_cache(cache: "Cache", report: Report) -> None:
    """How many files there are to learn from, and which ones are left out."""
    train, valid, test = (len(cache.split(name)) for name in ("train", "valid", "test"))
    left = f", {test} in folders named test left out" if test else ""
    report.say(f"{train} files to train on, {valid} held out{left}, {len(cache.skipped)} skipped")
    for item in cache.skipped[:SHOWN_SKIPPED]:
        report.say(one_line(f"skipped {item.path}: {item.reason}"))
    if len(cache.skipped) > SHOWN_SKIPPED:
        report.say(f"skipped {len(cache.skipped) - SHOWN_SKIPPED} more")


def _finish_training(run: "Run", outcome: "Outcome", report: Report) -> None:
    from audiovae.training.log import validation_before
    from audiovae.training.state import MODEL_FILE

    if not outcome.is_main:
        return
    model, last, before = run.folder / MODEL_FILE, outcome.validation, validation_before(run.folder)
    facts: dict[str, Any] = {
        "run": str(run.folder),
        "steps": outcome.step,
        "finished": outcome.is_finished,
        "validation": last and asdict(last) | {"collapsed": last.collapsed},
        "before": before,
        "written": [str(model)] if last else [],
    }
    if not outcome.is_finished:
        total = run.config.training.steps
        words = f"time is up at step {outcome.step} of {total}, state saved: --resume {run.folder} goes on"
        report.finish(f"{run.folder}: {words}", facts)
    elif last is None:
        report.finish(f"{run.folder}: at step {outcome.step} already, nothing left to do", facts)
    else:
        data = "held-out" if last.held_out else "training"
        errors = f"error on {data} audio {last.mel_error_db:.3f} dB in mels, {last.error_db:.3f} in bands"
        report.finish(f"wrote {model}: step {outcome.step}, {errors}{_before_tuning(before, last)}", facts)


def _before_tuning(before: dict[str, Any] | None, last: "Validation") -> str:
    """What the errors were, and whether the model is the worse for it: so little sound may have nothing to teach."""
    if not before:
        return ""
    worse = last.held_out and round(last.mel_error_db, 3) > round(before["mel_error_db"], 3)  # as far as is shown
    advice = ": better before, give it more sounds or fewer steps" if worse else ""
    return f" (before tuning {before['mel_error_db']:.3f} and {before['error_db']:.3f}{advice})"


def _facts(loaded: "Checkpoint") -> dict[str, Any]:
    from audiovae.checkpoint import FORMAT_NAME, FORMAT_VERSION

    config, facts = loaded.config, loaded.facts
    return {
        "file": loaded.source,
        "file_bytes": Path(loaded.source).stat().st_size,
        "format": f"{FORMAT_NAME}/{FORMAT_VERSION}",
        "version": facts.version,
        "fingerprint": loaded.fingerprint,
        "step": facts.step,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "variational": config.model.variational,
        "prior": "mixture and flow" if loaded.prior.flow else "mixture",
        "latent_channels": config.model.latent_channels,
        "latent_rate_hz": config.latent_rate,
        "sample_rate": config.spectrogram.sample_rate,
        "n_bands": config.spectrogram.n_bands,
        "bank": config.spectrogram.bank,
        "data": facts.data,
        "license": facts.license,
        "metrics": facts.metrics,
    }


def _say_table(facts: dict[str, Any], report: Report) -> None:
    shown = {name: value for name, value in facts.items() if name != "metrics"} | facts["metrics"]
    shown |= {"file_bytes": f"{facts['file_bytes']:,}", "parameters": f"{facts['parameters']:,}"}
    width = max(map(len, shown)) + 2
    for name, value in shown.items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        report.say(f"{name.replace('_', ' '):{width}}{text or 'not stated'}")
