"""Runs of the tiny model on synthetic sounds: it learns, and says what it does."""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import config_of, rows_of, trainer_of

from audiovae.checkpoint import load_checkpoint
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.training import loop, validation
from audiovae.training import run as training_run
from audiovae.training.data import Cache, open_cache
from audiovae.training.encoded import fit_prior
from audiovae.training.log import RunLog
from audiovae.training.passes import AutoencodingStep

pytestmark = pytest.mark.usefixtures("light")


def test_tuning_starts_from_the_checkpoint_and_not_from_components(
    cache: Cache, whole_run: Path, tmp_path: Path
) -> None:
    trained = load_checkpoint(whole_run / "model.safetensors")
    trainer = trainer_of(cache, tmp_path / "tuned", "training.steps=1", "training.learning_rate=1e-9")
    trainer.start_from(trained)
    trainer.train()
    tuned = load_checkpoint(tmp_path / "tuned" / "model.safetensors")
    assert tuned.facts.step == 1
    for name, weight in trained.model.state_dict().items():
        torch.testing.assert_close(tuned.model.state_dict()[name], weight, atol=1e-6, rtol=0, msg=name)


class TestTraining:
    def test_loss_falls_on_what_is_trained_and_on_what_is_held_out(self, cache, tmp_path, monkeypatch) -> None:
        """Without the principal components, which would leave the tiny model little to learn."""
        monkeypatch.setattr(loop, "fit_components", lambda vae, spectrogram, cache: None)
        result = trainer_of(cache, tmp_path, "training.steps=120", "training.validate_every=20").train()
        losses = [row["loss"] for row in rows_of(tmp_path) if "loss" in row]
        assert losses[-1] < 0.75 * losses[0]
        errors = [row["validation"]["error_db"] for row in rows_of(tmp_path) if "validation" in row]
        assert errors[-1] < errors[0]
        assert result is not None and result.held_out and result.error_db == errors[-1]

    def test_starts_from_the_principal_components_and_keeps_them(self, whole_run) -> None:
        saved = load_file(whole_run / "state.safetensors")
        analysis, rows = saved["model.components.analysis"], saved["model.components.components"]
        torch.testing.assert_close(analysis @ rows.mT, torch.eye(8), atol=1e-5, rtol=0)
        assert torch.equal(saved["ema.components.components"], rows)
        assert rows_of(whole_run)[0]["level"] < 0.5  # standard deviations, from the first steps on

    def test_the_log_has_a_row_for_every_interval_with_all_parts(self, whole_run) -> None:
        rows = rows_of(whole_run)
        assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20]
        names = (
            "step loss error_db kl learning_rate skipped_steps beta level difference convergence multi_resolution log"
        )
        assert set(rows[0]) == set(names.split())
        validations = [row for row in rows if "validation" in row]
        assert [row["step"] for row in validations] == [10, 20]
        figures = validations[-1]["validation"]
        assert len(figures["channel_kl"]) == figures["channels"] == 8
        assert sum(figures["channel_kl"]) == pytest.approx(figures["kl"])

    def test_the_model_is_the_average_and_can_be_used_at_once(self, whole_run) -> None:
        model = load_checkpoint(whole_run / "model.safetensors")
        assert (model.facts.step, model.facts.data) == (20, "synthetic")
        last = [row for row in rows_of(whole_run) if "validation" in row][-1]["validation"]
        assert model.facts.metrics["validation_error_db"] == last["error_db"]
        saved = load_file(whole_run / "state.safetensors")
        for name, tensor in model.model.state_dict().items():
            assert torch.equal(tensor, saved[f"ema.{name}"])
        assert not torch.equal(saved["ema.encoder.fold.weight"], saved["model.encoder.fold.weight"])
        assert float(model.prior.variance.min()) > 0
        assert not torch.equal(model.prior.variance, torch.ones(8))

    def test_tensorboard_has_curves_sounds_and_pictures(self, whole_run) -> None:
        board = EventAccumulator(str(whole_run / "tensorboard"), size_guidance={"audio": 0, "images": 0})
        board.Reload()
        tags = board.Tags()
        assert {f"training/{name}" for name in rows_of(whole_run)[0].keys() - {"step"}} < set(tags["scalars"])
        assert {"validation/error_db", "validation/mel_error_db", "validation/kl", "validation/active_units"} < set(
            tags["scalars"]
        )
        assert [event.step for event in board.Scalars("training/loss")] == [5, 10, 15, 20]
        assert {"target/0", "reconstruction/3"} < set(tags["images"]) and {"target/0", "target/3"} < set(tags["audio"])
        assert tags["histograms"] == ["validation/channel_kl"]

    def test_files_are_as_readable_as_the_umask_says(self, whole_run) -> None:
        (whole_run / "plain").touch()
        assert (whole_run / "state.safetensors").stat().st_mode == (whole_run / "plain").stat().st_mode

    def test_the_same_seed_gives_the_same_run_and_another_one_does_not(self, cache, whole_run, tmp_path) -> None:
        trainer_of(cache, tmp_path / "other", "training.seed=1", "training.steps=5").train()
        assert rows_of(tmp_path / "other")[0]["loss"] != rows_of(whole_run)[0]["loss"]

    @pytest.mark.parametrize("variational", [True, False])
    def test_every_parameter_has_a_gradient_in_every_step(self, variational) -> None:
        """Else data-parallel training would wait for one for ever."""
        vae = VAE(config_of(f"model.variational={str(variational).lower()}"))
        noise = torch.randn(2, vae.config.model.latent_channels, 16 // vae.config.model.time_stride)
        reconstruction, _, _ = AutoencodingStep(vae)(torch.randn(2, 1, 32, 16), noise)
        reconstruction.sum().backward()
        assert [name for name, parameter in vae.named_parameters() if parameter.grad is None] == []

    def test_a_plain_autoencoder_has_no_kl_and_no_noise(self, cache, tmp_path) -> None:
        result = trainer_of(cache, tmp_path, "model.variational=false", "training.beta=1000.0").train()
        rows = rows_of(tmp_path)
        assert all(row["kl"] == 0 and row["loss"] < 10 for row in rows if "loss" in row)
        assert result is not None and (result.kl, result.channel_kl, result.collapsed) == (0, (), False)

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of the norm: slower, not wrong
    def test_bfloat16_stays_finite_and_near_full_precision(self, cache, whole_run, tmp_path) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # precision is one of a process, says accelerate
        try:
            trainer_of(cache, tmp_path, 'training.mixed_precision="bf16"', "training.steps=10").train()
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        for half, full in zip(rows_of(tmp_path)[:2], rows_of(whole_run)[:2], strict=True):
            assert half["skipped_steps"] == 0
            assert half["loss"] == pytest.approx(full["loss"], rel=0.05)
            assert half["loss"] != full["loss"]
        assert all(tensor.dtype == torch.float32 for tensor in load_file(tmp_path / "state.safetensors").values())

    def test_collapse_is_said(self, cache, tmp_path, monkeypatch, caplog) -> None:
        monkeypatch.setattr(validation, "ACTIVE_VARIANCE", 1e9)
        with caplog.at_level(logging.WARNING):
            trainer_of(cache, tmp_path, "training.steps=2").train()
        assert "only 0 of 8 latent channels are active" in caplog.text
        assert rows_of(tmp_path)[-1]["validation"]["collapsed"] is True

    def test_where_nothing_is_held_out_the_training_sounds_are_measured(self, sounds_folder, tmp_path) -> None:
        cache = open_cache(sounds_folder, tmp_path / "cache", config_of("data.validation_share=0.0"))
        result = trainer_of(cache, tmp_path, "training.steps=1").train()
        assert result is not None and not result.held_out


class TestPrior:
    @pytest.mark.parametrize(("samples", "frames"), [(17_920, 4), (22_015, 4), (22_016, 5), (66_150, 15)])
    def test_is_fitted_to_the_longest_segments_that_every_file_has(self, cache, monkeypatch, samples, frames) -> None:
        """Longer ones would be stretched to fit."""
        used: list[tuple[int, ...]] = []

        def remember(latents: torch.Tensor, *, importance: torch.Tensor) -> Prior:
            used.append(tuple(latents.shape))
            return Prior.standard(8)

        monkeypatch.setattr(Prior, "fit", remember)
        config = config_of()
        fit_prior(VAE(config), Spectrogram(config.spectrogram), with_one_source(cache, samples), segments=50)
        assert used == [(4, 8, frames)]  # what there is, four times

    def test_of_single_frames_is_the_standard_one(self, cache) -> None:
        config = config_of("data.segment_latent_frames=1")
        prior = fit_prior(VAE(config), Spectrogram(config.spectrogram), with_one_source(cache, 9_727), segments=50)
        assert all(torch.equal(*pair) for pair in zip(prior.buffers(), Prior.standard(8).buffers(), strict=True))


def with_one_source(cache: Cache, samples: int) -> Cache:
    return Cache(cache.audio, (replace(cache.split("train")[0], samples=samples),), ())


def test_a_full_disk_is_told_with_the_run_it_stopped(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunLog, "write", refuse)
    with pytest.raises(InputError, match=f"^{tmp_path}: No space left on device$"):
        trainer_of(cache, tmp_path).train()


def test_a_run_is_trained_by_one_process_at_a_time(sounds_folder: Path, tmp_path: Path) -> None:
    run = training_run.new_run("tiny", ["training.steps=2"], data=sounds_folder, folder=tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(InputError, match=f"^{tmp_path}/run: another process is writing"):
        training_run.train(run, device="cpu")


def test_a_run_that_was_begun_meanwhile_is_not_replaced(sounds_folder: Path, tmp_path: Path) -> None:
    folders = {"data": sounds_folder, "folder": tmp_path / "run", "cache": tmp_path / "cache"}
    slow, quick = (training_run.new_run("tiny", ["training.steps=2"], **folders) for _ in range(2))
    training_run.train(quick, device="cpu")
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(
        InputError, match=r"run: not empty \(--resume .* continues the run in it, --force replaces it\)$"
    ):
        training_run.train(slow, device="cpu")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
