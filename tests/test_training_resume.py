"""A run that was interrupted, or whose steps were not finite: nothing is lost or changed."""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import poison, raising, rows_of, same_run, started_run, trainer_of

from audiovae.errors import InputError
from audiovae.tensor_file import read_tensors, write_tensors
from audiovae.training import state
from audiovae.training.data import Cache

pytestmark = pytest.mark.usefixtures("light")


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


def test_fewer_steps_than_are_done_leave_nothing_to_do(cache: Cache, tmp_path: Path) -> None:
    trainer_of(cache, tmp_path, "training.steps=10").train()
    again = trainer_of(cache, tmp_path, "training.steps=4")
    again.resume()
    assert again.train() is None and again.position.step == 10


def test_steps_that_are_the_last_ones_only_since_make_a_model_too(cache: Cache, tmp_path: Path) -> None:
    trainer_of(cache, tmp_path, "training.steps=20").train(stop=lambda: True)
    assert not (tmp_path / "model.safetensors").exists()
    again = trainer_of(cache, tmp_path, "training.steps=1")
    again.resume()
    validation = again.train()
    assert validation is not None and again.position.step == 1
    assert state.model_step(tmp_path) == 1
