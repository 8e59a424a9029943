"""Training in several processes, on a GPU, and processes that are interrupted."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_training import PLAYING, rows_of, started_run, trainer_of

from audiovae import cli
from audiovae.checkpoint import load_checkpoint
from audiovae.interrupts import children_deaf, handlers_kept, interrupts_held
from audiovae.training.data import Cache

pytestmark = pytest.mark.usefixtures("light")


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


def test_an_interrupt_waits_while_workers_start() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)  # to this thread: os.kill's may be taken, later, by another one
            steps.append("held")
        steps.append("after")
    assert steps == ["held"]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_torchruns_processes_only_the_first_answers(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", rank)
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cli._clean_up_when_told_to_stop()
        assert (signal.getsignal(signal.SIGTERM) is signal.SIG_DFL) == (rank == "1")


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
