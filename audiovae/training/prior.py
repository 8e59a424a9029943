"""``audiovae train-prior``: gives the model of a finished run a prior that knows how notes begin and end."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audiovae.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from audiovae.config import TrainingConfig
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.model.flow import Flow
from audiovae.model.prior import COMPONENTS
from audiovae.spectrogram import Spectrogram
from audiovae.training.data import open_cache
from audiovae.training.encoded import latents_of
from audiovae.training.flow import SETTINGS, Examples, FlowTrainer
from audiovae.training.loop import is_cpu
from audiovae.training.run import PRIOR_STATE, PRIOR_STATES, Run, remove_abandoned
from audiovae.training.state import MODEL_FILE, load_state, save_state

logger = logging.getLogger(__name__)

SEGMENTS, HELD_OUT_SEGMENTS, AT_ONCE = 16384, 512, 512


@dataclass(frozen=True)
class PriorProgress:
    """What is told every ``log_every`` steps, and, with the error on held-out audio, every ``validate_every``."""

    step: int
    steps: int
    loss: float
    error: float | None
    """Relative to that of the kinds' Gaussians."""


@dataclass(frozen=True)
class PriorWatch:
    """What is told meanwhile."""

    decoded: Callable[[int, int], None] = lambda done, total: None
    """Files of the data, of how many."""
    encoded: Callable[[int, int], None] = lambda done, total: None
    """Segments of the data, of how many."""
    stepped: Callable[[PriorProgress], None] = lambda progress: None


@dataclass(frozen=True)
class PriorOutcome:
    """How it ended."""

    step: int
    is_finished: bool
    error: float
    """The least one of all measured, relative to that of the kinds' Gaussians: the model's, once it is finished."""
    is_better: bool
    """Whether it is below 1. If not, the model keeps its mixture."""


def train_prior(
    run: Run,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    watch: PriorWatch = PriorWatch(),
) -> PriorOutcome:
    """Trains the flow of a run's newest model, and puts the model with it in that one's place.

    Called again, it goes on where it was; after ``minutes``, encoding included, it saves its state and ends. What the
    model gets is what was best on held-out sounds.

    Raises InputError for a run without a model or whose data have changed, and when it is interrupted.
    """
    ends_at = None if minutes is None else time.monotonic() + 60 * minutes
    settings = SETTINGS.model_copy(update={"steps": steps or SETTINGS.steps})
    with locked(run.folder):
        remove_abandoned(run.folder)
        checkpoint = load_checkpoint(run.folder / MODEL_FILE)
        state = run.folder / PRIOR_STATE.replace("*", checkpoint.fingerprint)
        for other in run.folder.glob(PRIOR_STATES):
            if other != state:  # of weights that are no more
                other.unlink(missing_ok=True)
        if checkpoint.facts.step < run.config.training.steps:
            at = f"step {checkpoint.facts.step} of {run.config.training.steps}"
            logger.warning(f"{run.folder}: the model is at {at}: training it on will replace this prior, too")
        trainer, held_out = _trainer(run, checkpoint, settings, device, watch)
        _resume(trainer, state)
        _train(trainer, held_out, state, watch, ends_at)
        error, step = trainer.keep_best(held_out), trainer.position.step
        if step >= settings.steps and error < 1:
            prior = checkpoint.prior.with_flow(trainer.best.cpu())
            facts = replace(checkpoint.facts, metrics=checkpoint.facts.metrics | {"prior_error": error})
            save_checkpoint(run.folder / MODEL_FILE, model=checkpoint.model.cpu(), prior=prior, facts=facts, force=True)
    return PriorOutcome(step, step >= settings.steps, error, error < 1)


def _trainer(
    run: Run, checkpoint: Checkpoint, settings: TrainingConfig, device: str, watch: PriorWatch
) -> tuple[FlowTrainer, Examples]:
    """At its start, and what is held out; where nothing is, both are of the training sounds."""
    on = torch.device("cpu" if is_cpu(device) else "cuda")
    cache = open_cache(run.data, run.cache, run.config, progress=watch.decoded)
    model, spectrogram = checkpoint.model.to(on), Spectrogram(run.config.spectrogram).to(on)

    def encoded(split: str, count: int) -> Examples:
        latents = latents_of(
            model, spectrogram, cache, split, segments=count, dtype=torch.float16, progress=watch.encoded
        )
        return Examples(latents, torch.cat([checkpoint.prior.kinds_of(some) for some in latents.split(AT_ONCE)]))

    training = encoded("train", SEGMENTS)
    held_out = encoded("valid" if cache.split("valid") else "train", HELD_OUT_SEGMENTS)
    torch.manual_seed(settings.seed)
    flow = Flow(run.config.model.latent_channels, kinds=COMPONENTS)
    flow.learn_moments(training.latents, training.kind)
    training, held_out = (_normalised(examples, flow).to(on) for examples in (training, held_out))
    return FlowTrainer(flow.to(on), training, importance=model.components.scale, settings=settings), held_out


def _normalised(examples: Examples, flow: Flow) -> Examples:
    """As the flow sees them. In place: they may be a gigabyte."""
    for some in examples.latents.split(AT_ONCE):
        some.copy_(flow.normalised(some.mT.float()).mT)
    return Examples(examples.latents.mT, examples.kind)


def _resume(trainer: FlowTrainer, state: Path) -> None:
    """Goes on from a state, if there is one."""
    if not state.exists():
        return
    learnt = {name: buffer.clone() for name, buffer in trainer.flow.named_buffers()}
    trainer.position = load_state(state, trainer.parts())
    if not all(torch.allclose(learnt[name], saved, atol=1e-3) for name, saved in trainer.flow.named_buffers()):
        raise InputError(f"{state}: of other training data: remove it to begin anew")


def _train(trainer: FlowTrainer, held_out: Examples, state: Path, watch: PriorWatch, ends_at: float | None) -> None:
    """To the last step, or until time is up; the state is saved."""
    settings = trainer.settings

    def due(every: int) -> bool:
        return trainer.position.step % every == 0 or trainer.position.step == settings.steps

    def save() -> None:
        save_state(state, trainer.parts(), trainer.position)

    try:
        while trainer.position.step < settings.steps and (ends_at is None or time.monotonic() < ends_at):
            loss = trainer.step()
            _refuse_hopeless(trainer, state.parent)
            error = trainer.keep_best(held_out) if due(settings.validate_every) else None
            if due(settings.checkpoint_every):
                save()
            if due(settings.log_every):
                watch.stepped(PriorProgress(trainer.position.step, settings.steps, float(loss), error))
        save()
    except BrokenPipeError:  # nobody reads what is told any more; the step is whole
        save()
        raise
    except KeyboardInterrupt:
        goes_on = f"the same command goes on from the last state saved (every {settings.checkpoint_every} steps)"
        hope = goes_on if state.exists() else "no state was saved yet"
        raise InputError(f"{state.parent}: interrupted after step {trainer.position.step}; {hope}") from None


def _refuse_hopeless(trainer: FlowTrainer, folder: Path) -> None:
    most = trainer.settings.max_skipped_steps
    if trainer.position.skipped_in_a_row >= most:
        raise InputError(
            f"{folder}: the prior's loss or gradient was not finite for {most} steps in a row, up to step "
            f"{trainer.position.step}: look at the data"
        )
