"""``audiovae train-prior``."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import call, misuse, refuse, work
from conftest import noise, tone
from tiny_codec import save_tiny
from tiny_training import trained

from audiovae.audio import Audio
from audiovae.checkpoint import Facts, load_checkpoint, save_checkpoint
from audiovae.config import Config
from audiovae.model.flow import Flow
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.training import prior
from audiovae.training.data import open_cache
from audiovae.training.encoded import latents_of
from audiovae.training.flow import CONTINUED

QUICKLY = {"checkpoint_every": 1, "warmup_steps": 5, "learning_rate": 1e-3}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few segments and a narrow network to learn a prior with."""
    monkeypatch.setattr(prior, "SEGMENTS", 64)
    monkeypatch.setattr(prior, "HELD_OUT_SEGMENTS", 8)
    monkeypatch.setattr("audiovae.model.flow.WIDTH", 48)


def interrupt_once(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """The first training that has done so many steps."""
    step, left = prior.FlowTrainer.step, [at]

    def interrupt(self: prior.FlowTrainer) -> torch.Tensor:
        if self.position.step in left:
            left.clear()
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(prior.FlowTrainer, "step", interrupt)


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
    interrupt_once(monkeypatch, at=3)
    line = refuse("train-prior", copy, *words, code=130)
    assert (
        line == f"{copy}: interrupted after step 3; the same command goes on from the last state saved (every 2 steps)"
    )
    work("train-prior", copy, *words)
    assert (copy / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Sounds of two kinds, of which there are enough segments to tell them."""
    folder = tmp_path / "other"
    folder.mkdir()
    Audio(0.5 * noise(samples=20_000, seed=5), 44_100).save(folder / "short.wav")
    Audio(noise(samples=200_000, seed=6), 44_100).save(folder / "noise.wav")
    Audio(tone(samples=200_000, frequency_hz=1760.0), 44_100).save(folder / "tone.wav")
    return folder


def test_a_finished_model_gets_a_prior_of_other_sounds_and_keeps_its_latents(
    quick: Path, music: Path, other: Path, tmp_path: Path, few: None
) -> None:
    start, run = tmp_path / "start.safetensors", tmp_path / "run"
    before = load_checkpoint(trained(quick, music, tmp_path / "first") / "model.safetensors")
    before.model.config = before.config.with_overrides(["data.shares={gone=0.5}"])  # a folder that only the model knew
    facts = replace(before.facts, license="MIT")
    save_checkpoint(start, model=before.model, prior=before.prior, facts=facts, half=True)
    words = ("train-prior", run, "--from", start, "--device", "cpu", "--quiet")
    assert refuse(*words) == f"{start}: give the sounds that its prior is to be trained on: --data DIR"
    assert refuse(*words, "--data", tmp_path / "none").endswith("none: no such folder")
    words = (*words, "--data", other)
    assert "a prior has no settings but those of data" in misuse(*words, "--set", "training.batch_size=2")
    assert not run.exists()
    assert "data.shares: nothing to train on in a folder violin" in refuse(*words, "--set", "data.shares={violin=0.5}")
    assert ": time is up, state saved" in work(*words, "--minutes", 0)
    assert work(*words, "--steps", 12).startswith(f"wrote {run}/model.safetensors: step 12, error ")
    after = load_checkpoint(run / "model.safetensors")
    assert after.fingerprint == load_checkpoint(start).fingerprint
    assert after.facts.data == "music: 2 files, 0.00 hours; prior: other: 3 files, 0.00 hours"
    assert after.facts.license == ""  # what was said of the weights isn't said of these sounds
    assert after.prior.flow is not None
    cache = open_cache(other, tmp_path / "cache", after.config.with_overrides(["data.shares={}"]))
    latents = latents_of(after.model, Spectrogram(after.config.spectrogram), cache, "train", segments=64)
    assert int((after.prior.share > 0).sum()) > 1
    torch.testing.assert_close(after.prior.mean, latents.mean((0, 2)), atol=1e-2, rtol=1e-2)


def test_a_model_with_a_flow_is_taught_other_sounds_from_there(
    quick: Path, music: Path, other: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior, "SETTINGS", prior.SETTINGS.model_copy(update=QUICKLY))
    first = trained(quick, music, tmp_path / "first")
    plain = shutil.copy(first / "model.safetensors", tmp_path / "plain.safetensors")
    work("train-prior", first, "--device", "cpu", "--quiet", "--steps", 40, "--data", other)
    start = load_checkpoint(first / "model.safetensors")

    def taught(run: str, start: Path) -> tuple[Flow | None, float]:
        words = ("train-prior", tmp_path / run, "--from", start, "--data", other, "--device", "cpu")
        told = json.loads(call(*words, "--steps", 60, "--json").stdout)
        return load_checkpoint(tmp_path / run / "model.safetensors").prior.flow, told["prior_error"]

    flow, error = taught("run", first / "model.safetensors")
    assert flow is not None and error < 0.98 * taught("new", Path(plain))[1]
    assert start.prior.flow is not None and not torch.equal(flow.out.weight, start.prior.flow.out.weight)
    assert torch.equal(flow.mean, start.prior.flow.mean)
    # What was stopped goes on as if it had not been.
    interrupt_once(monkeypatch, at=7)
    words = ("train-prior", tmp_path / "stopped", "--from", first / "model.safetensors", "--data", other)
    refuse(*words, "--device", "cpu", "--quiet", "--steps", 60, code=130)
    again, _ = taught("stopped", first / "model.safetensors")
    assert again is not None
    for name, tensor in flow.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_folder_that_is_somebodys_is_not_taken_for_a_prior(
    quick: Path, music: Path, tmp_path: Path, few: None
) -> None:
    run, mine = trained(quick, music, tmp_path / "run"), tmp_path / "mine"
    model = run / "model.safetensors"
    words = ("--data", music, "--device", "cpu", "--quiet", "--steps", 1)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert refuse("train-prior", run, "--from", model, *words) == (
        f"{run}: a model was trained here: leave out --from to give that one a prior"
    )
    assert {path: path.read_bytes() for path in before} == before
    mine.mkdir()
    shutil.copy(model, mine)
    assert refuse("train-prior", mine, "--from", model, *words) == (
        f"{mine}: not empty, and not begun by this command: use another folder"
    )
    work("train-prior", tmp_path / "new", "--from", model, *words)
    another = save_tiny(tmp_path / "tiny.safetensors")
    assert refuse("train-prior", tmp_path / "new", "--from", another, *words) == (
        f"{tmp_path}/new/model.safetensors: is not the model {another}: use another folder"
    )
    killed = tmp_path / "killed"  # while the model was written
    shutil.copytree(tmp_path / "new", killed)
    (killed / "model.safetensors").rename(killed / ".model.safetensors.1.tmp")
    assert work("train-prior", killed, "--from", model, *words).startswith("wrote ")


def test_a_prior_goes_on_with_the_kinds_that_its_flow_knows(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    words = ("train-prior", run, "--device", "cpu", "--quiet")
    work(*words, "--minutes", 0)
    monkeypatch.setattr(prior, "fit_mixture", lambda *_: pytest.fail("fitted once more"))
    assert work(*words, "--steps", 6).startswith("wrote ")
    assert "of other training data, --flow, --segments or --set: " in refuse(*words, "--steps", 8, "--segments", 3)


def test_a_tuned_model_goes_on_from_the_flow_of_another(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, tuned = trained(quick, music, tmp_path / "first"), tmp_path / "tuned"
    words = ("train", quick, "--data", music, "--device", "cpu", "--set", "training.steps=2", "--out", tuned)
    assert call(*words, "--from", first / "model.safetensors", "--set", "model.variational=false").exit_code == 0
    words = ("train-prior", tuned, "--device", "cpu", "--quiet", "--flow", first / "model.safetensors")
    assert refuse(*words) == f"{first}/model.safetensors: its prior has no flow to begin with"
    work("train-prior", first, "--device", "cpu", "--quiet", "--steps", 24)
    other = Config.from_toml(quick, ["model.latent_channels=4"])
    save_checkpoint(tmp_path / "other.safetensors", model=VAE(other), prior=Prior.standard(4), facts=Facts())
    assert "its model.latent_channels is 4, not 8" in refuse(*words[:-1], tmp_path / "other.safetensors")
    began, rates = [], []

    def step(trainer: prior.FlowTrainer) -> torch.Tensor:
        rates.append(trainer.settings.learning_rate)
        began.append({name: weight.clone() for name, weight in trainer.flow.named_parameters()})
        raise KeyboardInterrupt

    monkeypatch.setattr(prior.FlowTrainer, "step", step)
    refuse(*words, code=130)
    flow = load_checkpoint(first / "model.safetensors").prior.flow
    assert flow is not None
    assert rates == [CONTINUED["learning_rate"]] and rates[0] < prior.SETTINGS.learning_rate
    kinds = "condition.of_kind.weight"  # they are others
    assert all(torch.equal(began[0][name], weight) for name, weight in flow.named_parameters() if name != kinds)


def test_a_prior_that_learnt_nothing_is_not_taken(
    quick: Path, music: Path, tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(quick, music, tmp_path / "run")
    before = (run / "model.safetensors").read_bytes()
    monkeypatch.setattr(prior.FlowTrainer, "error", lambda *_: 1.25)
    last = work("train-prior", run, "--device", "cpu", "--quiet", "--steps", 1)
    assert (
        last == f"{run}: nothing was learnt, the model keeps the prior that it had: step 1, error 1.250 of Gaussians'"
    )
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
