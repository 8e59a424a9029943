"""``audiovae evaluate``: what it writes, says and refuses."""

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from html import unescape
from pathlib import Path

import pytest
from commands import call, misuse, refuse, work
from conftest import noise, sweep
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.evaluation import records, report, run
from audiovae.evaluation.in_betweens import Rows, ways_of
from audiovae.evaluation.summary import Summary
from audiovae.whole_file import whole_file

RATE = 44_100


def some_figure(codecs: Mapping[str, Codec], *_: object, **__: object) -> Rows:
    return {way: {"truth_relative_error": Summary(1.5, 0.5, 2)} for name in codecs for way in ways_of(name)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In-betweens whose truth is known are tested without the command; here a figure stands for them."""
    monkeypatch.setattr(run, "tone_in_betweens", some_figure)
    monkeypatch.setattr(run, "chord_in_betweens", some_figure)
    monkeypatch.setattr(run, "phrase_in_betweens", some_figure)
    monkeypatch.setattr(run, "transposed_in_betweens", some_figure)
    for module in (records, run):
        monkeypatch.setattr(module, "why_not_musicnn", lambda: "musicnn is left out")
        monkeypatch.setattr(module, "why_not_zimtohrli", lambda: "zimtohrli is left out")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny.safetensors")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    Audio(sweep(samples=RATE), RATE).save(folder / "<a>.wav")
    Audio(noise(samples=RATE), RATE).save(folder / "b.wav")
    return folder


def evaluate(*words: object) -> list[object]:
    return ["evaluate", *words, "--quality", "draft", "--device", "cpu"]


def test_the_report_holds_all_it_shows(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    last = work(*evaluate(clips, "--checkpoint", checkpoint, "--out", out))
    assert last == f"wrote {out / 'report.html'}, {out / 'report.json'}: 2 clips"
    page = (out / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"(?:src|href)='?\"?([^'\" >]{0,30})", page)
    assert sources and all(source.startswith("data:") for source in sources)
    assert page.count("<audio") == 2 * 5 and page.count("data:audio/mpeg") == 2 * 5
    assert page.count("data:image/png") == 3
    ways = ["target", "VAE", "PCA", "true bands", "true magnitudes"]
    assert re.findall(r"<label>([^<]*)<", page) == 2 * ways  # from left to right as in the picture
    assert "the first 10 s" in page and "128 slaney mels" in page and "MP3's own losses" in unescape(page)
    assert "&lt;a&gt;" in page and "<a>" not in page
    assert "Not measured: Zimtohrli MOS: zimtohrli is left out." in page
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    summary = figures["reconstruction"]["/".join(clips.parts[-2:])]["VAE"]["log_mel_error_db"]
    values = [clip["measures"]["VAE"]["log_mel_error_db"] for clip in figures["clips"]]
    assert summary["mean"] == pytest.approx(sum(values) / 2) and summary["count"] == 2
    assert figures["latent_use"]["VAE"]["channels"] == 8


def test_a_bad_clip_is_reported_and_the_rest_is_measured(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    (clips / "bad.wav").write_text("no sound")
    result = call(*evaluate(clips, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--json"))
    assert result.exit_code == 1
    assert re.fullmatch(r"audiovae: .*bad\.wav: damaged or not audio .*\n", result.stderr)
    figures = json.loads(result.stdout)
    assert len(figures["clips"]) == 2 and len(figures["failures"]) == 1
    assert "Left out" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_another_evaluations_report_is_kept_without_force(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ["evaluate", clips / "b.wav", "--checkpoint", checkpoint, "--out", out, "--quiet"]
    work(*first, "--quality", "draft")
    before = json.loads((out / "report.json").read_bytes())
    assert refuse(*first, "--quality", "best").endswith(
        "holds the report of another evaluation (use --force to overwrite)"
    )
    assert json.loads((out / "report.json").read_bytes()) == before
    other = ["evaluate", clips / "<a>.wav", *first[2:], "--quality", "draft"]
    for words in (other, [*first, "--quality", "draft", "--limit", 1]):
        assert "holds the report of another evaluation" in refuse(*words)
    work(*first, "--quality", "draft")
    assert json.loads((out / "report.json").read_bytes())["clips"] == before["clips"]
    work(*first, "--quality", "standard", "--force")
    after = json.loads((out / "report.json").read_bytes())
    assert after["clips"] != before["clips"] and after["settings"]["quality"] == "standard"


def test_a_report_without_its_page_is_gone_on_with(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *, force: bool) -> AbstractContextManager[Path]:
        if path.name == report.PAGE:
            raise OSError(28, "No space left on device")
        return whole_file(path, force=force)

    words = evaluate(clips, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(report, "whole_file", full)
        assert refuse(*words).endswith("No space left on device")
    assert work(*words) == f"wrote {tmp_path}/out/report.html, {tmp_path}/out/report.json: 2 clips"


def test_a_page_that_is_not_ours_is_kept(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert "use --force" in refuse(*evaluate(clips, "--checkpoint", checkpoint, "--out", tmp_path))
    assert (tmp_path / "report.html").read_text() == "mine"
    taken = tmp_path / "report.html"
    assert "is a file, not a folder" in refuse(*evaluate(clips, "--checkpoint", checkpoint, "--out", taken))


def test_models_are_compared_by_name(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other.safetensors", seed=1)
    out = tmp_path / "out"
    work(*evaluate(clips, "--checkpoint", checkpoint, "--compare", f"AE={other}", "--out", out, "--limit", 1))
    figures = json.loads((out / "report.json").read_text(encoding="utf-8"))
    (ways,) = figures["reconstruction"].values()
    assert list(ways) == ["VAE", "PCA", "AE", "true bands", "true magnitudes"]
    assert len(figures["clips"]) == 1 and figures["realism"]["AE"]["in-betweens"]["fd_mfcc"] is None
    assert figures["real_change_db"] > 0
    assert "true magnitudes" in (out / "report.html").read_text(encoding="utf-8")


def test_a_full_disk_is_not_the_clips_fault(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_to_write(path: Path, *_arguments: object, **_options: object) -> None:
        raise InputError(f"{path}: can't be written: No space left on device")

    monkeypatch.setattr(records, "write_tensors", refuse_to_write)
    line = refuse(*evaluate(clips, "--checkpoint", checkpoint, "--out", tmp_path / "out"))
    assert re.fullmatch(rf"{tmp_path}/out/\S+: can't be written: No space left on device", line)


def test_wrong_usage_is_said(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    assert "want NAME=FILE" in misuse(*evaluate(clips, "--compare", "AE"))
    assert "given twice" in misuse(*evaluate(clips, "--compare", "A=x", "--compare", "A=y"))
    words = [clips, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    assert "--compare PCA: the name is taken" in refuse(*evaluate(*words, "--compare", f"PCA={checkpoint}"))
    assert refuse(*evaluate(tmp_path / "none", "--out", tmp_path / "out")).endswith("none: no such file or folder")
    assert not (tmp_path / "out").exists()


def test_without_clips_the_examples_are_measured(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiovae.evaluation.clips.EXAMPLE_FOLDERS", (tmp_path / "nowhere", clips))
    assert work(*evaluate("--checkpoint", checkpoint, "--out", tmp_path / "out")).endswith("2 clips")
