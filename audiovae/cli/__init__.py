"""The commands. Each only names the way through the package; nothing heavy is imported before one of them runs."""

import errno
import io
import logging
import os
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from audiovae.cli.datasets import decode, encode
from audiovae.cli.evaluation import evaluate
from audiovae.cli.models import info, train
from audiovae.cli.morphing import interpolate
from audiovae.cli.report import one_line
from audiovae.cli.sounds import generate, reconstruct
from audiovae.cli.train_prior import train_prior
from audiovae.errors import InputError
from audiovae.interrupts import TO_ALL

INTERRUPTED = 130
TAKE_PATTERNS = ("encode", "decode")
"""Commands that match globs themselves: among audio files, or among the sources of a dataset."""


class Commands(TyperGroup):
    """Turns what can't be used into one line on stderr and exit 1; a defect of ours keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            # torch would import it later, and swallow an interrupt that comes during the import.
            import numpy.random  # noqa: F401

            return super().invoke(ctx)
        except (InputError, OSError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_of_memory(error):
                raise
            # typer ends quietly where the pipe is closed (`| head`).
            if ctx.meta.get("debug") or (isinstance(error, OSError) and error.errno == errno.EPIPE):
                raise
            typer.echo(f"audiovae: {_one_line(error)}", err=True)
            _drop_what_nobody_reads()
            # Training tells an interrupt in words of its own.
            stopped = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
            raise typer.Exit(INTERRUPTED if stopped else 1) from None


def _is_of_memory(error: RuntimeError) -> bool:
    """torch has no MemoryError: on a GPU it has a class of its own, elsewhere only words."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _drop_what_nobody_reads() -> None:
    """Where the reader of stdout is gone, Python would say at its end that what is left can't be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RuntimeError):
        return "not enough memory"
    words = {KeyboardInterrupt: "interrupted", MemoryError: "not enough memory"}
    return one_line(" ".join(str(error).splitlines())) or words.get(type(error), type(error).__name__)


app = typer.Typer(
    name="audiovae",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (interpolate, reconstruct, generate, encode, decode, train, train_prior, evaluate, info):
    app.command()(_command)


def _print_version(wanted: bool) -> bool:
    if wanted:
        from audiovae import __version__

        typer.echo(f"audiovae {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def audiovae(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hear what lies between two pieces of music."""


def _hush_libraries() -> None:
    """A library's advice to programmers doesn't help whoever runs a command; our own warnings do."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    ours = logging.StreamHandler()
    ours.setFormatter(logging.Formatter("audiovae: warning: %(message)s"))
    logging.getLogger("audiovae").addHandler(ours)
    programmers_words = threading.excepthook
    # A full disk ends a library's writing thread: the error reaches us as well, and we tell of it.
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else programmers_words(args)


def _clean_up_when_told_to_stop() -> None:
    """A closed terminal or a batch system's signal ends a command as Ctrl-C does, so that nothing half-made stays."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
        return  # torchrun's other processes write nothing, and may be waiting where no handler runs
    for number in TO_ALL:
        # nohup asks to have SIGHUP ignored, and Python answers SIGINT itself.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


def _be_told_once() -> None:
    """Ignores further signals: all is cleaned up, and a second Ctrl-C would only make a library print a traceback."""
    for number in TO_ALL:
        signal.signal(number, signal.SIG_IGN)


def _stand_in_for_closed_streams() -> None:
    """Whoever closed them wants to hear nothing; libraries, and we, want something to write to."""
    sys.stdout = sys.stdout or open(os.devnull, "w", errors="replace")  # noqa: SIM115, until the end
    sys.stderr = sys.stderr or open(os.devnull, "w", errors="replace")  # noqa: SIM115


def _words() -> list[str] | None:
    """What was typed; None where that is for typer to find out.

    Windows leaves globs to programs: typer spells them out by whatever files there are, as if nobody had quoted them.
    """
    if os.name == "nt" and sys.argv[1:2] in [[name] for name in TAKE_PATTERNS]:
        return [os.path.expanduser(word) for word in sys.argv[1:]]
    return None


def main() -> None:
    """The ``audiovae`` command."""
    _stand_in_for_closed_streams()
    _hush_libraries()
    _clean_up_when_told_to_stop()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold bytes that are no text; to print them must not fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(_words(), prog_name="audiovae")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _be_told_once()
        raise
