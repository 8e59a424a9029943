"""A narrow flow on sounds of two kinds."""

import pytest
import torch
from torch import Tensor

from audiovae.model.flow import Flow
from audiovae.model.prior import COMPONENTS, Prior
from audiovae.training.flow import SETTINGS, Examples, FlowTrainer

CHANNELS, FRAMES = 4, 12


@pytest.fixture(scope="module")
def narrow_and_on_one_thread():
    """A network of a fifth of the width: the tests wait for no more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audiovae.model.flow.WIDTH", 48)
        yield
    torch.set_num_threads(threads)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_levels(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sounds of two kinds. Those of kind 0 are loud or quiet throughout, and nothing between; kind 1 is noise at 5."""
    generator = seeded(seed)
    kind = torch.arange(count) % 2
    loud = torch.randint(2, (count, 1, 1), generator=generator) * 6.0 - 3.0
    noise = 0.3 * torch.randn(count, CHANNELS, FRAMES, generator=generator)
    return torch.where(kind[:, None, None] == 0, loud, 5.0) + noise, kind


def trainer_of(segments: Tensor, kind: Tensor, **settings) -> FlowTrainer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(CHANNELS, kinds=COMPONENTS)
    flow.learn_moments(segments, kind)
    chosen = SETTINGS.model_copy(update={"steps": 300, "batch_size": 32, "warmup_steps": 10} | settings)
    examples = Examples(flow.normalised(segments.mT), kind)
    return FlowTrainer(flow, examples, mixture=Prior(CHANNELS), importance=torch.ones(CHANNELS), settings=chosen)


@pytest.fixture(scope="module")
def trained_flow(narrow_and_on_one_thread: None) -> FlowTrainer:
    trainer = trainer_of(*two_levels(256))
    for _ in range(trainer.settings.steps):
        trainer.step()
    return trainer
