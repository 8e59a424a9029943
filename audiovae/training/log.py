"""What a run leaves to read while it goes on: a line of JSON for every row, and TensorBoard's curves."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from audiovae.json_text import to_json
from audiovae.training.state import BOARD_FOLDER, LOG_FILE
from audiovae.whole_file import whole_file


class RunLog:
    """The log of one run. What it already says of steps after ``first_step``, which will be done again, is dropped."""

    def __init__(self, run: Path, *, first_step: int) -> None:
        self._rows = run / LOG_FILE
        _drop_rows_after(first_step, self._rows)
        self.board = SummaryWriter(str(run / BOARD_FOLDER), purge_step=first_step + 1)

    def write(self, step: int, row: Mapping[str, object], *, curves: Mapping[str, float]) -> None:
        """Adds a row to the file, and the curves' next points to TensorBoard; raises OSError if the disk refuses.

        JSON knows no NaN and no infinity: such numbers become null.
        """
        with self._rows.open("a", encoding="utf-8") as rows:
            rows.write(to_json({"step": step, **row}) + "\n")
        for name, value in curves.items():
            if math.isfinite(value):
                self.board.add_scalar(name, value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Writes out what TensorBoard still holds back."""
        self.board.close()


def validation_before(run: Path) -> dict[str, Any] | None:
    """Figures of a model from before it was tuned; None where training began with nothing, or they are none."""
    try:
        rows = [json.loads(line) for line in (run / LOG_FILE).read_text(encoding="utf-8").splitlines()]
        before = next(row["validation"] for row in rows if row["step"] == 0)
        return before if math.isfinite(before["error_db"]) and math.isfinite(before["mel_error_db"]) else None
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None


def _drop_rows_after(step: int, rows: Path) -> None:
    if not rows.exists():
        return
    kept = [line for line in rows.read_text(encoding="utf-8", errors="replace").splitlines() if _step_of(line) <= step]
    with whole_file(rows, force=True) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    """Infinite for a line that a killed process left unfinished."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf
