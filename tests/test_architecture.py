"""Who may know whom, what importing costs, and that the package holds what it promises."""

import subprocess
import sys
import tomllib
from pathlib import Path

import audiovae

ROOT = Path(__file__).parents[1]


def test_imports_go_one_way():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_public_names_are_there_and_lazy():
    code = "import sys, audiovae; assert 'torch' not in sys.modules; audiovae.Audio; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in audiovae.__all__:
        assert getattr(audiovae, name) is not None
    assert set(audiovae.__all__) <= set(dir(audiovae))


def test_version_is_pyprojects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert audiovae.__version__ == project["version"]


def test_nothing_loads_pickles():
    for path in (ROOT / "audiovae").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "torch.load" not in text, path
        assert "import pickle" not in text, path
        assert "allow_pickle" not in text, path


def test_top_level_is_as_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    visible = {line.split("/")[0] for line in tracked if line and not line.startswith(".")}
    agreed = {"pyproject.toml", "README.md", "audiovae", "data", "tests", "demos", "LICENSE", "CHANGELOG.md"}
    assert visible <= agreed


def test_bundled_weights_are_small():
    weights = list((ROOT / "audiovae" / "assets").glob("*.safetensors"))
    assert weights
    assert sum(path.stat().st_size for path in weights) <= 30 * 2**20
