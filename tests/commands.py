"""How tests call the commands, and what they may say."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from audiovae.cli import app

RUN = CliRunner()


def call(*words: object) -> Result:
    return RUN.invoke(app, [str(word) for word in words])


def work(*words: object) -> str:
    """Runs a command that must succeed; returns its last line on stdout."""
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()[-1]


def refuse(*words: object, code: int = 1) -> str:
    """Runs a command that must fail with one line on stderr, and nothing on stdout; returns the line."""
    result = call(*words)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("audiovae: ")
    return line.removeprefix("audiovae: ")


def misuse(*words: object) -> str:
    """Runs a command that must fail as wrong usage; returns what it says, without its frame."""
    result = call(*words)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    return " ".join(word for word in result.stderr.split() if word != "│")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def python(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
