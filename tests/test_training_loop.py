"""Runs of the tiny model on synthetic sounds: it learns, and whatever happens, nothing is lost or changed."""

import errno
import json
import logging
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audiovae.checkpoint import Facts, load_checkpoint
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.interrupts import children_deaf, interrupts_held
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.tensor_file import read_tensors, write_tensors
from audiovae.training import components, loop, state, validation
from audiovae.training import run as training_run
from audiovae.training.data import Cache, open_cache
from audiovae.training.encoded import fit_prior
from audiovae.training.log import RunLog
from audiovae.training.loop import Progress, Trainer
from audiovae.training.passes import AutoencodingStep
from audiovae.training.segments import Segment, Segments

TINY = Path(components.__file__).parents[1] / "configs" / "tiny.toml"
SHORT = ("training.steps=20", "training.validate_every=10")
LIGHT = (
    (components, "PATCHES", 300),
    (validation, "SEGMENTS", 8),
    (loop, "PRIOR_SEGMENTS", 8),
    (loop, "LAST_PRIOR_SEGMENTS", 8),
    (validation, "EXAMPLE_ITERATIONS", 1),
)
PLAYING = ("training.adversarial_weight=0.5", "training.adversarial_start_step=12",
           "training.adversarial_warmup_steps=4")  # fmt: skip
Watch = Callable[[Progress], None]


def config_of(*overrides: str) -> Config:
    return Config.from_toml(TINY, [*SHORT, *overrides])


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """One thread, and few segments for what is not a training step: the tests wait for neither."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in LIGHT:
            patch.setattr(module, name, value)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sounds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plucked chords with some noise, which five files share in pitch and not in rhythm."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for number in range(5):
        waveform = 0.01 * random.standard_normal(66_150)
        for onset in random.integers(0, 60_000, 8):
            time = np.arange(66_150 - onset) / 44_100
            waveform[onset:] += 0.2 * np.exp(-8 * time) * np.sin(2 * np.pi * random.choice([220, 330, 550, 880]) * time)
        soundfile.write(folder / f"{number}.wav", waveform, 44_100, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def cache(sounds_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    config = config_of("data.validation_share=0.3")
    cache = open_cache(sounds_folder, tmp_path_factory.mktemp("cache"), config)
    assert cache.split("valid") and cache.split("train")
    return cache


def trainer_of(cache: Cache, run: Path, *overrides: str, device: str = "cpu") -> Trainer:
    run.mkdir(exist_ok=True)
    return Trainer(config_of(*overrides), cache, run, device=device, facts=Facts(data="synthetic"))


@pytest.fixture(scope="module")
def whole_run(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole")
    trainer_of(cache, run).train()
    return run


@pytest.fixture(scope="module")
def played(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a discriminator."""
    run = tmp_path_factory.mktemp("played")
    trainer_of(cache, run, *PLAYING).train()
    return run


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, average, moments, position; the model with its prior; every row of the log."""
    for name in ("state.safetensors", "model.safetensors"):
        # Not the files' bytes: safetensors writes the entries of a header in any order.
        with safe_open(one / name, "pt") as first, safe_open(other / name, "pt") as second:
            assert first.metadata() == second.metadata()
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()


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


def raising(error: BaseException, *, at: int) -> Watch:
    def watch(progress: Progress) -> None:
        if progress.step == at:
            raise error

    return watch


def poison(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Makes one segment of each of these steps NaN."""
    draw, size = Segments.__getitem__, config_of().training.batch_size

    def poisoned(segments: Segments, index: int) -> Segment:
        segment = draw(segments, index)
        bad = segments.augment and index // size in steps and index % size == 1
        return segment._replace(gain=segment.gain * math.nan) if bad else segment

    monkeypatch.setattr(Segments, "__getitem__", poisoned)


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


class TestResume:
    def test_after_an_interrupt_it_equals_the_whole_run_bit_for_bit(self, cache, whole_run, tmp_path) -> None:
        interrupted = f"^{tmp_path}: interrupted after step 15; --resume {tmp_path} continues .*every 10 steps"
        with pytest.raises(InputError, match=interrupted):
            trainer_of(cache, tmp_path).train(raising(KeyboardInterrupt(), at=15))
        assert [row["step"] for row in rows_of(tmp_path)] == [5, 10, 10, 15]
        again = trainer_of(cache, tmp_path)
        again.resume()
        assert again.position.step == 10
        again.train()
        same_run(tmp_path, whole_run)
        board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [event.step for event in board.Scalars("training/loss")] == [5, 10, 15, 20]  # step 15 was done twice

    def test_legs_that_time_ends_equal_the_whole_run_bit_for_bit(self, cache, whole_run, tmp_path) -> None:
        """Whether it ends before, at or after a step that is logged, measured or saved."""
        for last in (3, 5, 10, 11):
            leg = trainer_of(cache, tmp_path)
            if last > 3:
                leg.resume()
            answers = iter([False] * (last - leg.position.step - 1) + [True])
            leg.train(stop=lambda answers=answers: next(answers))
            assert leg.position.step == last
        again = trainer_of(cache, tmp_path)
        again.resume()
        assert again.position.step == 11
        again.train(stop=lambda: False)
        same_run(tmp_path, whole_run)

    def test_when_nobody_reads_any_more_the_state_is_saved(self, cache, whole_run, tmp_path) -> None:
        with pytest.raises(InputError, match=rf"ended at step 15, state saved: --resume {tmp_path} goes on$"):
            trainer_of(cache, tmp_path).train(raising(BrokenPipeError(), at=15))
        again = trainer_of(cache, tmp_path)
        again.resume()
        assert again.position.step == 15
        again.train()
        same_run(tmp_path, whole_run)

    def test_an_interrupt_before_the_first_state_says_so(self, cache, tmp_path) -> None:
        with pytest.raises(
            InputError, match=r"interrupted after step 5; no state was saved yet: --force begins again$"
        ):
            trainer_of(cache, tmp_path).train(raising(KeyboardInterrupt(), at=5))
        assert not (tmp_path / "state.safetensors").exists()

    def test_a_finished_run_has_nothing_left_to_do(self, cache, whole_run, tmp_path) -> None:
        for name in ("state.safetensors", "log.jsonl", "model.safetensors"):
            (tmp_path / name).write_bytes((whole_run / name).read_bytes())
        finished = trainer_of(cache, tmp_path)
        finished.resume()
        assert finished.train() is None
        same_run(tmp_path, whole_run)

    def test_workers_change_nothing_and_none_is_left_after_an_error(self, cache, whole_run, tmp_path) -> None:
        trainer = trainer_of(cache, tmp_path, "data.workers=1")
        with pytest.raises(RuntimeError, match="watcher"):
            trainer.train(raising(RuntimeError("watcher"), at=10))
        assert multiprocessing.active_children() == []
        assert rows_of(tmp_path)[:2] == [row for row in rows_of(whole_run) if "loss" in row][:2]

    def test_after_kill_9_it_equals_the_whole_run_bit_for_bit(self, cache, sounds_folder, whole_run, tmp_path) -> None:
        run = tmp_path / "run"
        process = started_run([sys.executable], tmp_path, sounds_folder, cache, run)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "15":
                break
        process.kill()
        assert process.wait() == -9
        process.stdout.close()
        assert (run / "state.safetensors").exists()
        again = trainer_of(cache, run)
        again.resume()
        assert 0 < again.position.step < 20
        again.train()
        same_run(run, whole_run)

    def test_a_torn_last_line_of_the_log_is_dropped(self, cache, whole_run, tmp_path) -> None:
        for name in ("state.safetensors", "log.jsonl", "model.safetensors"):
            (tmp_path / name).write_bytes((whole_run / name).read_bytes())
        with (tmp_path / "log.jsonl").open("a") as log:
            log.write('{"step": 2')
        trainer = trainer_of(cache, tmp_path)
        trainer.resume()
        trainer.train()
        same_run(tmp_path, whole_run)

    def test_without_a_state_there_is_nothing_to_resume(self, cache, tmp_path) -> None:
        with pytest.raises(InputError, match=r"state\.safetensors: no such file$"):
            trainer_of(cache, tmp_path).resume()

    @pytest.mark.parametrize("damage", ["cut", "text", "other model"])
    def test_a_state_that_is_not_this_runs_is_refused_in_one_line(self, cache, whole_run, tmp_path, damage) -> None:
        whole = (whole_run / "state.safetensors").read_bytes()
        broken = {"cut": whole[:-100], "text": b"not a state at all", "other model": whole}[damage]
        (tmp_path / "state.safetensors").write_bytes(broken)
        overrides = ["model.bottleneck_width=24"] if damage == "other model" else []
        with pytest.raises(
            InputError, match=r"state\.safetensors: not (the state of this run: |a readable state of a run )"
        ) as error:
            trainer_of(cache, tmp_path, *overrides).resume()
        assert "\n" not in str(error.value)

    def test_a_flipped_byte_of_the_state_is_noticed(self, cache, whole_run, tmp_path) -> None:
        data = bytearray((whole_run / "state.safetensors").read_bytes())
        data[-1000] ^= 0x01
        (tmp_path / "state.safetensors").write_bytes(data)
        with pytest.raises(InputError, match=r"state\.safetensors: damaged.*its checksum is another$"):
            trainer_of(cache, tmp_path).resume()

    @pytest.mark.parametrize("position", [{"step": -3}, {"step": 10**30}, {"step": 5, "skipped_steps": 6}], ids=str)
    def test_a_position_that_cannot_be_is_refused(self, cache, whole_run, tmp_path, position) -> None:
        path = tmp_path / "state.safetensors"
        tensors, header = read_tensors(whole_run / "state.safetensors", kind="state")
        header = {"step": "0", "skipped_steps": "0", "skipped_in_a_row": "0"} | {
            name: str(value) for name, value in position.items()
        }
        write_tensors(path, tensors, header | {state.CHECKSUM: state._checksum(tensors, header)})
        with pytest.raises(InputError, match=r"state\.safetensors: not the state of this run: .* is no position$"):
            trainer_of(cache, tmp_path).resume()

    def test_a_disk_that_fills_keeps_the_state_that_was_there(self, cache, whole_run, tmp_path, monkeypatch) -> None:
        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        before = (whole_run / "state.safetensors").read_bytes()
        (tmp_path / "state.safetensors").write_bytes(before)
        trainer = trainer_of(cache, tmp_path)
        monkeypatch.setattr("audiovae.tensor_file.os.fsync", fail)
        with pytest.raises(InputError, match=r"state\.safetensors: can't be written: No space left on device"):
            trainer._save_state()
        assert (tmp_path / "state.safetensors").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


class TestAdversary:
    """The discriminator joins at step 12 of 20."""

    def test_before_it_joins_the_run_is_what_it_is_without_it_bit_for_bit(self, played, whole_run) -> None:
        assert rows_of(played)[:2] == rows_of(whole_run)[:2]
        assert rows_of(played)[2]["validation"] == rows_of(whole_run)[2]["validation"]

    def test_up_to_its_step_the_weights_are_those_without_it_and_from_then_on_not(self, cache, tmp_path) -> None:
        for steps, same in ((13, True), (14, False)):  # the ramp is at zero in the step that it joins in
            saved = []
            for name, overrides in (("with", PLAYING), ("without", ())):
                run = tmp_path / f"{name}-{steps}"
                answers = iter([False] * (steps - 1) + [True])
                trainer_of(cache, run, *overrides).train(stop=lambda answers=answers: next(answers))
                saved.append(load_file(run / "state.safetensors"))
            ours, theirs = saved
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs) is same
            assert {name.partition(".")[0] for name in ours.keys() - theirs.keys()} >= {"discriminator"}

    def test_its_losses_are_logged_once_it_plays(self, played) -> None:
        names = {"discriminator", "adversarial", "feature_matching"}
        rows = {row["step"]: row for row in rows_of(played) if "loss" in row}
        assert [names <= rows[step].keys() for step in (5, 10, 15, 20)] == [False, False, True, True]
        assert all(math.isfinite(rows[20][name]) for name in names) and rows[20]["skipped_steps"] == 0
        board = EventAccumulator(str(played / "tensorboard")).Reload()
        assert [event.step for event in board.Scalars("training/discriminator")] == [15, 20]

    @pytest.mark.parametrize("last", [11, 15])
    def test_resumed_before_or_after_it_joined_the_run_is_the_same_bit_for_bit(
        self, cache, played, tmp_path, last
    ) -> None:
        answers = iter([False] * (last - 1) + [True])
        trainer_of(cache, tmp_path, *PLAYING).train(stop=lambda: next(answers))
        again = trainer_of(cache, tmp_path, *PLAYING)
        again.resume()
        assert again.position.step == last
        again.train()
        same_run(tmp_path, played)

    def test_a_run_can_get_one_on_the_way_and_go_on_without(self, cache, whole_run, played, tmp_path) -> None:
        for name, run, overrides in (("gets", whole_run, PLAYING), ("loses", played, ())):
            (tmp_path / name).mkdir()
            (tmp_path / name / "state.safetensors").write_bytes((run / "state.safetensors").read_bytes())
            trainer = trainer_of(cache, tmp_path / name, *overrides, "training.steps=22")
            trainer.resume()
            trainer.train()
            saved = load_file(tmp_path / name / "state.safetensors")
            assert any(one.startswith("discriminator.") for one in saved) is (name == "gets")

    def test_a_plain_autoencoder_has_one_too(self, cache, tmp_path) -> None:
        trainer_of(cache, tmp_path, *PLAYING, "model.variational=false").train()
        assert rows_of(tmp_path)[-2]["skipped_steps"] == 0 and "discriminator" in rows_of(tmp_path)[-2]

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of the norm: slower, not wrong
    def test_in_bfloat16_it_plays_on(self, cache, played, tmp_path) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # precision is one of a process, says accelerate
        try:
            trainer_of(cache, tmp_path, *PLAYING, 'training.mixed_precision="bf16"').train()
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
        half, full = (row[-2] for row in (rows_of(tmp_path), rows_of(played)))
        assert half["skipped_steps"] == 0
        for name in ("discriminator", "feature_matching"):
            assert half[name] == pytest.approx(full[name], rel=0.1) and half[name] != full[name]
        saved = load_file(tmp_path / "state.safetensors")
        assert all(tensor.dtype == torch.float32 for tensor in saved.values())

    def test_a_bad_step_changes_neither_side(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(15, 16))
        trainer_of(cache, tmp_path, *PLAYING).train()
        saved = load_file(tmp_path / "state.safetensors")
        assert all(tensor.isfinite().all() for tensor in saved.values())
        assert (saved["optimizer.0.step"], saved["discriminator_optimizer.0.step"]) == (19, 7)


class TestNonFinite:
    def test_a_bad_step_changes_nothing_and_is_counted(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(12, 13))
        trainer_of(cache, tmp_path).train()
        losses = {row["step"]: row for row in rows_of(tmp_path) if "loss" in row}
        assert [losses[step]["skipped_steps"] for step in (5, 10, 15, 20)] == [0, 0, 1, 1]
        saved = load_file(tmp_path / "state.safetensors")
        assert all(tensor.isfinite().all() for tensor in saved.values())
        assert saved["optimizer.0.step"] == 19

    def test_its_loss_is_null_in_the_log(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(4, 5))
        trainer_of(cache, tmp_path, "training.steps=6").train()
        assert rows_of(tmp_path)[0]["loss"] is None
        assert "NaN" not in (tmp_path / "log.jsonl").read_text()

    def test_the_count_outlives_a_resume(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(8, 10))
        with pytest.raises(InputError, match="interrupted"):
            trainer_of(cache, tmp_path).train(raising(KeyboardInterrupt(), at=15))
        again = trainer_of(cache, tmp_path)
        again.resume()
        assert again.position == state.Position(step=10, skipped_steps=2, skipped_in_a_row=2)

    def test_too_many_in_a_row_end_the_run_with_its_name_and_a_hint(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(6, 20))
        message = (
            f"^{tmp_path}: loss or gradient was not finite for 3 steps in a row, up to step 9; lower training.learn"
        )
        with pytest.raises(InputError, match=message):
            trainer_of(cache, tmp_path, "training.max_skipped_steps=3").train()

    def test_scattered_ones_do_not_end_it(self, cache, tmp_path, monkeypatch) -> None:
        poison(monkeypatch, range(1, 8, 2))
        trainer_of(cache, tmp_path, "training.steps=8", "training.max_skipped_steps=2").train()
        assert rows_of(tmp_path)[-2]["skipped_steps"] == 4


PROCESS = '''
"""One process of a run, as a person would start it: python, or torchrun."""
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from audiovae.checkpoint import Facts
from audiovae.config import Config
from audiovae.training import components, loop, validation
from audiovae.training.data import open_cache
from audiovae.training.loop import Trainer

torch.set_num_threads(1)
components.PATCHES, validation.SEGMENTS, validation.EXAMPLE_ITERATIONS = 300, 8, 1
loop.PRIOR_SEGMENTS = loop.LAST_PRIOR_SEGMENTS = 8
sounds, cache_folder, run, config = sys.argv[1:]
config = Config.from_json(config, "test")
cache = open_cache(Path(sounds), Path(cache_folder), config)
Path(run).mkdir(exist_ok=True)
trainer = Trainer(config, cache, Path(run), device="cpu", facts=Facts(data="synthetic"))
trainer.train(lambda progress: print(progress.step, flush=True))
weights = {name: tensor.contiguous() for name, tensor in trainer.vae.state_dict().items()}
save_file(weights, Path(run, f"weights-{trainer.accelerator.process_index}.safetensors"))
trainer.accelerator.end_training()
'''


def started_run(
    command: list[str], folder: Path, sounds: Path, cache: Cache, run: Path, *overrides: str
) -> subprocess.Popen[str]:
    script = folder / "process.py"
    script.write_text(PROCESS)
    config = config_of("data.validation_share=0.3", *overrides).model_dump_json()
    arguments = [str(script), str(sounds), str(cache.audio.parent), str(run), config]
    # The package that is tested here, wherever the interpreter was told to find it.
    environment = os.environ | {"PYTHONPATH": str(TINY.parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)


class TestTwoProcesses:
    def test_equal_one_process_with_the_doubled_batch(self, cache, sounds_folder, tmp_path) -> None:
        """A plain autoencoder, since each process draws noise of its own; with a discriminator from the first step."""
        plain = ("model.variational=false", "training.steps=4", *PLAYING, "training.adversarial_start_step=0",
                 "training.adversarial_warmup_steps=0")  # fmt: skip
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = started_run(
            torchrun, tmp_path, sounds_folder, cache, tmp_path / "two", *plain, "training.batch_size=2"
        )
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert output.split() == ["4"]  # the first process alone speaks
        first, second = (load_file(tmp_path / "two" / f"weights-{rank}.safetensors") for rank in range(2))
        alone = trainer_of(cache, tmp_path / "one", *plain, "training.batch_size=4")
        before = {name: tensor.clone() for name, tensor in alone.vae.state_dict().items()}
        alone.train()
        for name, tensor in alone.vae.state_dict().items():
            assert torch.equal(first[name], second[name])
            moved = (tensor - before[name]).norm()
            # A gradient near 0 may round to either side of it, and Adam moves its weight as far as any other.
            assert (first[name] - tensor).norm() <= 2e-2 * moved + 1e-7, name


def test_a_full_disk_is_told_with_the_run_it_stopped(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunLog, "write", refuse)
    with pytest.raises(InputError, match=f"^{tmp_path}: No space left on device$"):
        trainer_of(cache, tmp_path).train()


def test_an_interrupt_waits_while_workers_start() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)  # to this thread: os.kill's may be taken, later, by another one
            steps.append("held")
        steps.append("after")
    assert steps == ["held"]


def test_a_signal_to_end_waits_too_and_is_answered_as_ever() -> None:
    came: list[int] = []
    usual = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGTERM)
            assert came == []
        ends = time.monotonic() + 10
        while not came and time.monotonic() < ends:  # another thread that took it may still be on its way
            time.sleep(0.01)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, usual)


@pytest.fixture
def fresh_process(whole_run: Path) -> Iterator[None]:
    """accelerate knows one device and precision a process: another one begins as a new process would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh_process")
def test_on_cuda_in_bf16_it_learns_what_the_cpu_learns(cache: Cache, whole_run: Path, tmp_path: Path) -> None:
    trainer = trainer_of(cache, tmp_path, "training.mixed_precision='bf16'", device="cuda")
    assert trainer.accelerator.device.type == "cuda"
    result = trainer.train()
    on_cpu = [row["validation"] for row in rows_of(whole_run) if "validation" in row][-1]
    assert result is not None
    assert result.error_db == pytest.approx(on_cpu["error_db"], abs=0.5)
    assert load_checkpoint(tmp_path / "model.safetensors").facts.step == 20


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh_process")
def test_on_cuda_a_recorded_pass_does_what_it_is_a_recording_of(cache: Cache, tmp_path: Path) -> None:
    """Also as the weight of the KL rises, and as batches and noise change."""
    rows = []
    rising = "training.beta=1e-1", "training.beta_start=1e-3"
    for name in ("recorded", "eager"):
        trainer = trainer_of(cache, tmp_path / name, "training.log_every=1", *rising, device="cuda")
        if name == "eager":
            trainer.back = trainer._back
        trainer.train()
        rows.append([(row["loss"], row["level"], row["kl"]) for row in rows_of(tmp_path / name) if "loss" in row])
    recorded, eager = (torch.tensor(one) for one in rows)
    torch.testing.assert_close(recorded, eager, rtol=1e-3, atol=1e-4)
    assert len(set(recorded[:, 0].tolist())) == 20


@pytest.mark.gpu
@pytest.mark.usefixtures("fresh_process")
def test_on_cuda_a_stopped_run_goes_on(cache: Cache, tmp_path: Path) -> None:
    trainer_of(cache, tmp_path, "training.steps=10", device="cuda").train()
    again = trainer_of(cache, tmp_path, device="cuda")
    assert again.accelerator.device.type == "cuda"
    again.resume()
    assert again.position.step == 10
    assert again.train() is not None


def test_deaf_children_never_see_an_interrupt() -> None:
    with children_deaf():
        child = multiprocessing.get_context("spawn").Process(target=print, args=("done",))
        child.start()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join(timeout=60)
    assert child.exitcode == 0


FORGOTTEN_CHILD = """
import multiprocessing
import time
from audiovae.interrupts import children_deaf

if __name__ == "__main__":
    with children_deaf():
        multiprocessing.get_context("spawn").Process(target=time.sleep, args=(3600,), daemon=True).start()
"""


def test_a_deaf_child_that_was_forgotten_does_not_keep_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(FORGOTTEN_CHILD)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(tmp_path / "script.py")], env=environment, check=True, timeout=60)


def test_a_run_is_trained_by_one_process_at_a_time(sounds_folder: Path, tmp_path: Path) -> None:
    run = training_run.new_run("tiny", ["training.steps=2"], data=sounds_folder, folder=tmp_path / "run")
    with locked(tmp_path / "run"), pytest.raises(InputError, match=f"^{tmp_path}/run: another process is writing"):
        training_run.train(run, device="cpu")


def test_fewer_steps_than_are_done_leave_nothing_to_do(cache: Cache, tmp_path: Path) -> None:
    trainer_of(cache, tmp_path, "training.steps=10").train()
    again = trainer_of(cache, tmp_path, "training.steps=4")
    again.resume()
    assert again.train() is None and again.position.step == 10
