"""Training of the flow: the best is kept, nothing is lost, and a GPU does the same."""

from pathlib import Path

import pytest
import torch
from tiny_flow import CHANNELS, trainer_of, two_levels

from audiovae.errors import InputError
from audiovae.model.prior import Prior
from audiovae.training.flow import Examples, FlowTrainer
from audiovae.training.optimizer import flow_optimizers
from audiovae.training.prior import _refuse_hopeless, _resume
from audiovae.training.state import load_state, save_state

pytestmark = pytest.mark.usefixtures("narrow_and_on_one_thread")


def test_the_best_average_is_kept(trained_flow):
    trainer = trainer_of(*two_levels(64))
    held_out = Examples(trained_flow.examples.latents, trained_flow.examples.kind)
    trainer.ema.load_state_dict(trained_flow.ema.state_dict())
    best = trainer.keep_best(held_out)
    assert best == pytest.approx(trainer.error(trained_flow.ema, held_out), rel=0.01)
    torch.nn.init.normal_(trainer.ema.out.weight)
    assert trainer.keep_best(held_out) == pytest.approx(best)
    assert torch.equal(trainer.best.out.weight, trained_flow.ema.out.weight)


def test_a_state_of_other_data_is_refused(tmp_path: Path):
    first, other = trainer_of(*two_levels(64)), trainer_of(2 * two_levels(64)[0], two_levels(64)[1])
    save_state(tmp_path / "state", first.parts(), first.position)
    _resume(first, tmp_path / "state")
    with pytest.raises(InputError, match="state: of other training data"):
        _resume(other, tmp_path / "state")


def test_after_a_stop_training_goes_on_bit_for_bit(tmp_path: Path):
    whole, first, second = (trainer_of(*two_levels(64)) for _ in range(3))
    for _ in range(8):
        whole.step()
    for _ in range(3):
        first.step()
    save_state(tmp_path / "state", first.parts(), first.position)
    second.position = load_state(tmp_path / "state", second.parts())
    assert second.position.step == 3
    for _ in range(5):
        second.step()
    for model in ("flow", "ema"):
        pairs = zip(getattr(whole, model).parameters(), getattr(second, model).parameters(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def test_steps_that_are_not_finite_change_nothing_and_are_refused_when_too_many():
    trainer = trainer_of(*two_levels(64), max_skipped_steps=2)
    trainer.step()
    before = [parameter.clone() for parameter in trainer.flow.parameters()]
    trainer.examples.latents[:] = torch.nan
    trainer.step()
    assert all(torch.equal(*pair) for pair in zip(before, trainer.flow.parameters(), strict=True))
    assert (trainer.position.step, trainer.position.skipped_steps) == (2, 1)
    trainer.step()
    with pytest.raises(InputError, match=r"^runs/mine: .* not finite for 2 steps in a row, up to step 3"):
        _refuse_hopeless(trainer, Path("runs/mine"))


def test_errors_at_what_counts_more_weigh_more():
    segments, kind = two_levels(64)
    first, last = (trainer_of(segments, kind) for _ in range(2))
    first.weight, last.weight = torch.tensor([4.0, 0, 0, 0]), torch.tensor([0, 0, 0, 4.0])
    for _ in range(60):
        first.step(), last.step()
    held_out = Examples(*map(torch.clone, (first.examples.latents, first.examples.kind)))
    first.weight = last.weight = torch.tensor([4.0, 0, 0, 0])
    assert first.error(first.ema, held_out) < last.error(last.ema, held_out)


def test_biases_and_local_coordinates_are_not_decayed():
    flow = trainer_of(*two_levels(64)).flow
    before = {name: parameter.clone() for name, parameter in flow.named_parameters()}
    for optimizer in flow_optimizers(flow, 0.1, 0.5):
        for parameter in flow.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    changed = {name for name, parameter in flow.named_parameters() if not torch.equal(parameter, before[name])}
    filled = {name for name, parameter in before.items() if parameter.dim() > 1 and parameter.any()}
    assert changed == filled - {"local"}


@pytest.mark.gpu
def test_on_cuda_it_learns_what_the_cpu_learns(trained_flow):
    segments, kind = two_levels(256)
    trainer = trainer_of(segments, kind)
    on_cuda = FlowTrainer(
        trainer.flow.cuda(),
        Examples(trainer.examples.latents.cuda(), kind.cuda()),
        mixture=Prior(CHANNELS),
        importance=torch.ones(CHANNELS),
        settings=trainer.settings,
    )
    for _ in range(on_cuda.settings.steps):
        on_cuda.step()
    # Each device draws other noise: both are measured with the CPU's.
    assert trained_flow.error(on_cuda.ema.cpu(), trained_flow.examples) == pytest.approx(
        trained_flow.error(trained_flow.ema, trained_flow.examples), rel=0.2
    )
