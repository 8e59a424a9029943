"""Benchmarks are run by hand, months apart: that each still works on what it measures is tested here."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
BENCHMARKS = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
SHORT = {
    "stereo": [EXAMPLES / "ambient.flac"],
    "griffin_lim": [EXAMPLES / "guitar.flac", "--seconds", "1"],
    "band_inversion": [EXAMPLES / "guitar.flac", "--seconds", "1"],
    "errors": [EXAMPLES, "--clips", "1"],
}
"""Arguments with which a benchmark is done in seconds."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_benchmark_imports_is_there(script, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module(script)


@pytest.mark.slow
@pytest.mark.parametrize("script", SHORT)
def test_a_benchmark_prints_its_table(script):
    pytest.importorskip("zimtohrli")
    command = [sys.executable, BENCHMARKS / f"{script}.py", *SHORT[script]]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) > 3
    assert "nan" not in done.stdout
