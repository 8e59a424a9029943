"""Strikes at a touch of the disk: for tests of what is left when a run ends in the middle of anything."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Faults:
    """Counts every write, flush to disk, rename and deletion, and does ``strike`` in the middle of one of them."""

    def __init__(self, strike: Callable[[], None], at: int | None) -> None:
        self.strike, self.at, self.count = strike, at, 0

    def pass_by(self) -> bool:
        self.count += 1
        return self.count - 1 == self.at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        open_path = Path.open

        def opened(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if ".tmp" not in path.name:
                return open_path(path, mode, *rest, **named)
            return io.BufferedWriter(_FaultyFile(self, path), 1500)  # so that a shard takes several writes

        patch.setattr(Path, "open", opened)
        for module, name in ((os, "replace"), (os, "fsync"), (os, "unlink")):
            patch.setattr(module, name, self._guarded(getattr(module, name)))

    def _guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            if self.pass_by():
                self.strike()
            return call(*arguments, **named)

        return guarded


class _FaultyFile(io.FileIO):
    def __init__(self, faults: Faults, path: Path) -> None:
        super().__init__(path, "wb")
        self.faults = faults

    def write(self, data: Any) -> int:
        if self.faults.pass_by():
            super().write(memoryview(data)[: len(data) // 2])  # half of it is on disk
            self.faults.strike()
        return super().write(data)


def die_at(fault: int | None, work: Callable[[], object]) -> bool:
    """Does the work in a child that is gone, as after kill -9, at its n-th touch of the disk; whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                Faults(lambda: os._exit(77), fault).install(patch)
                work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 77)
    return status == 77


def count_faults(work: Callable[[], object]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(lambda: None, None)
        faults.install(patch)
        work()
    return faults.count
