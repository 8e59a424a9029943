"""``audiovae train-prior``."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import call, misuse, refuse, work
from conftest import noise
from tiny_codec import save_tiny
from tiny_training import trained

from audiovae.audio import Audio
from audiovae.checkpoint import load_checkpoint
from audiovae.spectrogram import Spectrogram
from audiovae.training import prior
from audiovae.training.data import open_cache
from audiovae.training.encoded import latents_of


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few segments and a narrow network to learn a prior with."""
    monkeypatch.setattr(prior, "SEGMENTS", 24)
    monkeypatch.setattr(prior, "HELD_OUT_SEGMENTS", 8)
    monkeypatch.setattr("audiovae.model.flow.WIDTH", 48)


def test_a_trained_model_gets_a_prior_that_knows_more(
    quick: Path, music: Path, tmp_path: Path, few: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(quick, music, tmp_path / "run")
    model, words = run / "model.safetensors", ("train-prior", run, "--device", "cpu", "--quiet")
    mixture = model.read_bytes()
    older = "prior-0123456789abcdef.safetensors"
    for left in (older, f".{older}.1.tmp", "prior-of-monday.safetensors"):
        (run / left).touch()
    assert ": time is up, state saved, the same command goes on: step 0, error 1.000" in work(*words, "--minutes", 0)
    assert model.read_bytes() == mixture
    (run / "prior-of-monday.safetensors").unlink()  # a user's own
    (state,) = run.glob("*prior*")
    assert state.name != older
    assert work(*words, "--steps", 24).startswith(f"wrote {model}: step 24, error ")
    loaded, info = load_checkpoint(model), json.loads(call("info", model, "--json").stdout)
    assert loaded.prior.flow is not None
    assert (info["prior"], info["step"]) == ("mixture and flow", 2)
    assert 0 < info["metrics"]["prior_error"] < 1
    again = json.loads(call(*words[:-1], "--steps", 24, "--json").stdout)
    assert (again["finished"], again["prior_error"]) == (True, pytest.approx(info["metrics"]["prior_error"], abs=1e-4))
    work("generate", "--count", 1, "--duration", 0.3, "--checkpoint", model, "--out", tmp_path / "new", "--quiet")
    work("train", "--resume", run, "--set", "training.steps=3", "--device", "cpu", "--quiet")
    assert "train-prior" in caplog.text
    assert load_checkpoint(model).prior.flow is None
    words = ("train", quick, "--data", music, "--out", run, "--device", "cpu", "--set", "training.steps=2", "--force")
    assert call(*words).exit_code == 0
    assert not list(run.glob("prior-*"))


def test_a_prior_that_was_stopped_is_the_same_bit_for_bit(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, words = trained(quick, music, tmp_path / "run"), ("--device", "cpu", "--quiet", "--steps", 6)
    copy = shutil.copytree(run, tmp_path / "copy")
    work("train-prior", run, *words)
    monkeypatch.setattr(prior, "SETTINGS", prior.SETTINGS.model_copy(update={"checkpoint_every": 2}))
    step, interrupted_at = prior.FlowTrainer.step, [3]

    def interrupt(self: prior.FlowTrainer) -> torch.Tensor:
        if self.position.step in interrupted_at:
            interrupted_at.clear()
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", copy, *words, code=130)
    assert (
        line == f"{copy}: interrupted after step 3; the same command goes on from the last state saved (every 2 steps)"
    )
    work("train-prior", copy, *words)
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_finished_model_gets_a_prior_of_other_sounds_and_keeps_its_latents(
    quick: Path, music: Path, tmp_path: Path, few: None
) -> None:
    start, run = trained(quick, music, tmp_path / "first") / "model.safetensors", tmp_path / "run"
    other = tmp_path / "other"
    other.mkdir()
    Audio(noise(samples=90_000, seed=5), 44_100).save(other / "c.wav")
    words = ("train-prior", run, "--from", start, "--device", "cpu", "--quiet")
    assert refuse(*words) == f"{start}: which sounds its prior is to be of is not said: --data DIR"
    assert not run.exists()
    words = (*words, "--data", other, "--cache", tmp_path / "cache-of-other")
    assert "a prior has no settings but those of data" in misuse(*words, "--set", "training.batch_size=2")
    assert "data.shares" in refuse(*words, "--set", "data.shares={violin=0.5}", "--minutes", 0)
    assert ": time is up, state saved" in work(*words, "--minutes", 0)
    assert work(*words, "--steps", 12).startswith(f"wrote {run}/model.safetensors: step 12, error ")
    before, after = load_checkpoint(start), load_checkpoint(run / "model.safetensors")
    assert after.fingerprint == before.fingerprint
    assert after.prior.flow is not None and not torch.equal(after.prior.centre, before.prior.centre)
    cache = open_cache(other, tmp_path / "cache-of-other", after.config)
    spectrogram = Spectrogram(after.config.spectrogram)
    latents = latents_of(after.model, spectrogram, cache, "train", segments=24, dtype=torch.float16)
    torch.testing.assert_close(after.prior.mean, latents.float().mean((0, 2)), atol=1e-3, rtol=1e-3)
    assert work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 12).startswith("wrote ")
    another = save_tiny(tmp_path / "tiny.safetensors")
    assert refuse(*words[:2], "--from", another, *words[4:]) == (
        f"{run}/model.safetensors: is another model than {another}: use another folder"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert "full: not empty" in refuse("train-prior", tmp_path / "full", *words[2:])


def test_a_model_with_a_flow_is_taught_other_sounds_from_there(
    quick: Path, music: Path, tmp_path: Path, few: None
) -> None:
    first = trained(quick, music, tmp_path / "first")
    work("train-prior", first, "--device", "cpu", "--quiet", "--steps", 24)
    flow = load_checkpoint(first / "model.safetensors").prior.flow
    words = ("train-prior", tmp_path / "run", "--from", first / "model.safetensors", "--data", music, "--device", "cpu")
    told = json.loads(call(*words, "--steps", 1, "--json").stdout)
    assert told["prior_error"] < 0.99  # a new one's would be 1 after a step
    tuned = load_checkpoint(tmp_path / "run" / "model.safetensors").prior.flow
    assert flow is not None and tuned is not None
    assert torch.equal(tuned.mean, flow.mean)
    assert not torch.equal(tuned.out.weight, flow.out.weight)


def test_a_prior_goes_on_with_the_kinds_that_its_flow_knows(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    words = ("train-prior", run, "--device", "cpu", "--quiet")
    work(*words, "--minutes", 0)
    monkeypatch.setattr(prior, "fit_mixture", lambda *_: pytest.fail("fitted once more"))
    assert work(*words, "--steps", 6).startswith("wrote ")
    assert "of other training data" in refuse(*words, "--steps", 8, "--segments", 3)


def test_a_prior_that_learnt_nothing_is_not_taken(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.setattr(prior.FlowTrainer, "error", lambda *_: 1.25)
    last = work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 1)
    assert last == f"{run}: nothing was learnt, the model keeps its mixture: step 1, error 1.250 of Gaussians'"
    assert (run / "model.safetensors").read_bytes() == before


def test_the_prior_of_what_is_no_run_is_refused(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a run that can be resumed: it has no config.json" in refuse("train-prior", tmp_path)
    run = trained(quick, music, tmp_path / "run")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)
    line = refuse("train-prior", run, "--device", "cpu", "--quiet", code=130)
    assert line == f"{run}: interrupted after step 0; no state was saved yet"
    assert refuse("train-prior", run, "--data", tmp_path / "none").endswith("none: no such folder")
    (run / "model.safetensors").unlink()
    assert refuse("train-prior", run, "--device", "cpu") == f"{run}/model.safetensors: no such file"
