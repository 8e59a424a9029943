"""A run with a discriminator: it plays by schedule, and resumes too."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import PLAYING, poison, rows_of, same_run, trainer_of

pytestmark = pytest.mark.usefixtures("light")


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
