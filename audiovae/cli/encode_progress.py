"""What ``audiovae encode`` says while it works: a bar, a line a minute in a log, or JSON events."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from audiovae.cli.report import Report
from audiovae.json_text import to_json

if TYPE_CHECKING:
    from audiovae.encoding.run import Outcome

EVENT_SECONDS, LOG_SECONDS, BAR_SECONDS = 1.0, 60.0, 0.1


@contextmanager
def encode_progress(report: Report, *, terminal: bool) -> "Iterator[Callable[[Outcome], None]]":
    """Yields a function to be called after each row, which prints only now and then: more often on a terminal.

    With --json, whatever ends the block early is an event of its own, which says how far the run has come.
    """
    seconds = EVENT_SECONDS if report.as_json else BAR_SECONDS if terminal else LOG_SECONDS
    last, told = time.monotonic() if not terminal else 0.0, None

    def tell(outcome: "Outcome") -> None:
        nonlocal last, told
        now, told = time.monotonic(), outcome
        if now - last < seconds and not (terminal and outcome.done == outcome.total):
            return
        last = now
        if report.as_json:
            typer.echo(to_json({"event": "progress"} | counts(outcome)))
        else:
            advance(outcome.done, outcome.total, _figures(outcome, eta=not terminal))

    with report.progress("encoding") as advance:
        try:
            yield tell
        except BaseException as error:
            if report.as_json:
                _tell_the_end(error, told)
            raise


def _tell_the_end(error: BaseException, told: "Outcome | None") -> None:
    if isinstance(error, KeyboardInterrupt):
        event: dict[str, object] = {"event": "interrupted"}
    else:
        event = {"event": "error", "reason": " ".join(str(error).split()) or type(error).__name__}
    typer.echo(to_json(event | (counts(told) if told else {})))


def counts(outcome: "Outcome") -> dict[str, object]:
    """How far a run is, in numbers."""
    return {
        "total": outcome.total,
        "done_before": outcome.done_before,
        "changed": outcome.changed,
        "encoded": outcome.encoded,
        "failed": len(outcome.failures),
        "audio_seconds": outcome.audio_seconds,
        "elapsed_seconds": outcome.elapsed_seconds,
        "times_real_time": outcome.times_real_time,
        "remaining_seconds": outcome.remaining_seconds,
    }


def _figures(outcome: "Outcome", *, eta: bool) -> str:
    figures = f"{outcome.audio_seconds / 3600:.1f} h of audio, {outcome.times_real_time:.0f} times real time"
    if outcome.failures:
        figures += f", {len(outcome.failures)} failed"
    if eta and outcome.remaining_seconds is not None:
        figures += f", {_clock(outcome.remaining_seconds)} to go"
    return figures


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"
