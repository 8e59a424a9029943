"""What a command says: bars on stderr, lines and results on stdout, in words or as one JSON object."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import typer

from audiovae.json_text import to_json

SHOWN_FAILURES = 10


@runtime_checkable
class Advance(Protocol):
    """A function that is told how much is done, of how much, and perhaps figures in words."""

    def __call__(self, done: int, total: int, figures: str = "", /) -> None: ...


class Report:
    """The words of one command."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    @property
    def chatty(self) -> bool:
        """Whether more than the last line is wanted."""
        return not (self.as_json or self.quiet)

    def say(self, line: str) -> None:
        """A line for who watches."""
        if self.chatty:
            typer.echo(line)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A bar on a terminal, gone when it is done; elsewhere (a log, say) only figures are told, line by line."""
        if not (self.chatty and sys.stderr.isatty()):
            yield lambda done, total, figures="": self.say(f"{done}/{total}  {figures}") if figures else None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        columns = (
            TextColumn(what, table_column=Column(no_wrap=True, min_width=len(what))),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=11)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None, visible=False, figures="")

            def advance(done: int, total: int, figures: str = "", /) -> None:
                bar.update(task, completed=done, total=total, figures=figures, visible=True)

            yield advance

    def finish(self, line: str, facts: dict[str, Any]) -> None:
        """The last line, which names what was written, or with --json the facts instead."""
        typer.echo(to_json(facts, indent=2) if self.as_json else line)


def one_line(text: object) -> str:
    """Text as it is told: file names may hold line breaks, which would make one message look like two."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def tell_failures(reasons: Sequence[str]) -> None:
    """The first few of what went wrong on stderr, a line each."""
    for reason in reasons[:SHOWN_FAILURES]:
        typer.echo(one_line(f"audiovae: {reason}"), err=True)


def names(files: list[str]) -> str:
    """File names in few words: the first and the last of a long series."""
    return ", ".join(files) if len(files) <= 3 else f"{files[0]} to {files[-1]}"
