"""Each demo runs as it stands, and leaves sounds and a picture."""

import subprocess
import sys
from pathlib import Path

import pytest

DEMOS = Path(__file__).parents[1] / "demos"


@pytest.mark.parametrize("script", sorted(DEMOS.glob("*.py")), ids=lambda path: path.stem)
def test_demo(script: Path, tmp_path: Path):
    options = ["--steps", "5"] if "train" in script.name else []
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", script, "--out", tmp_path / "out", *options],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    suffixes = {path.suffix for path in (tmp_path / "out").rglob("*")}
    assert ".png" in suffixes
    assert suffixes & {".wav", ".parquet"}
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 65


def test_every_demo_is_described():
    text = (DEMOS / "README.md").read_text(encoding="utf-8")
    for script in DEMOS.glob("*.py"):
        assert f"`{script.name}`" in text
