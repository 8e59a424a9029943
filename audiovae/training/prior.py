"""``audiovae train-prior``: a prior for a finished model, of a folder's sounds, that knows how notes begin and end."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audiovae.checkpoint import PRIOR_OF, TUNED_ON, Checkpoint, Facts, load_checkpoint, save_checkpoint
from audiovae.config import TrainingConfig
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.model.flow import Flow
from audiovae.model.principal_components import PrincipalComponents
from audiovae.model.prior import COMPONENTS, Prior
from audiovae.spectrogram import Spectrogram
from audiovae.training.data import Cache, open_cache
from audiovae.training.encoded import LAST_PRIOR_SEGMENTS, fit_mixture, latents_of
from audiovae.training.flow import CONTINUED, SETTINGS, Examples, FlowTrainer
from audiovae.training.loop import is_cpu
from audiovae.training.older_caches import in_use
from audiovae.training.run import (
    PRIOR_STATE,
    PRIOR_STATES,
    Run,
    data_words,
    refuse_another_model,
    remove_abandoned,
)
from audiovae.training.state import MODEL_FILE, Parts, load_state, save_state

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
    opened: Callable[[Cache], None] = lambda cache: None
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
    """Whether it is below 1. If not, the model keeps the prior that it had."""


@dataclass(frozen=True)
class _Task:
    """What is taught, on which data, and where its state lies."""

    run: Run
    checkpoint: Checkpoint
    cache: Cache
    state: Path
    settings: TrainingConfig
    segments: int
    device: torch.device
    begin_with: Prior
    """Whose flow is trained further, if it has one."""


def train_prior(
    run: Run,
    *,
    steps: int | None = None,
    segments: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    flow_of: Checkpoint | None = None,
    watch: PriorWatch = PriorWatch(),
) -> PriorOutcome:
    """Fits a mixture to the run's data, trains a flow, and gives both to the run's newest model if they are any good.

    The flow learns from so many segments of 3 s. It goes on from that of the model ``flow_of``, which the run's may be
    tuned from, or from the run's own, if there is one, and then at lower rates. Called again, training goes on where it
    was; after ``minutes``, encoding included, it saves its state and ends. What the model gets is what was best on
    held-out sounds.

    Raises InputError for a run without a model or whose data have changed, for a ``flow_of`` without a flow or of other
    latents, and when it is interrupted.
    """
    ends_at = None if minutes is None else time.monotonic() + 60 * minutes
    with locked(run.folder):
        remove_abandoned(run.folder)
        checkpoint = load_checkpoint(run.folder / MODEL_FILE)
        begin_with = _prior_with_flow(flow_of, run) if flow_of else checkpoint.prior
        state = run.folder / PRIOR_STATE.replace("*", checkpoint.fingerprint)
        _remove_states_but(state)
        if checkpoint.facts.step < run.config.training.steps:
            at = f"step {checkpoint.facts.step} of {run.config.training.steps}"
            logger.warning(f"{run.folder}: the model is at {at}: training it further will replace this prior")
        cache = open_cache(run.data, run.cache, run.config, progress=watch.decoded)
        watch.opened(cache)
        on = torch.device("cpu" if is_cpu(device) else "cuda")
        settings = _settings(steps, begin_with)
        task = _Task(run, checkpoint, cache, state, settings, segments or SEGMENTS, on, begin_with)
        with in_use(cache.audio):
            trainer, held_out = _trainer(task, watch)
        _resume(trainer, state)
        _train(trainer, held_out, state, watch, ends_at)
        error, step = trainer.keep_best(held_out), trainer.position.step
        if step >= settings.steps and error < 1:
            prior, facts = trainer.mixture.with_flow(trainer.best.cpu()), _facts(task, error)
            save_checkpoint(run.folder / MODEL_FILE, model=checkpoint.model.cpu(), prior=prior, facts=facts, force=True)
    return PriorOutcome(step, step >= settings.steps, error, error < 1)


def _settings(steps: int | None, begin_with: Prior) -> TrainingConfig:
    rates = {} if begin_with.flow is None else CONTINUED
    return SETTINGS.model_copy(update={"steps": steps or SETTINGS.steps} | rates)


def _prior_with_flow(flow_of: Checkpoint, run: Run) -> Prior:
    """Of another model. Raises InputError if it has no flow, or one of other latents than the run's."""
    # An autoencoder may be tuned from a VAE.
    alike = flow_of.config.with_overrides([f"model.variational={str(run.config.model.variational).lower()}"])
    refuse_another_model(run.config, alike, flow_of.source)
    if flow_of.prior.flow is None:
        raise InputError(f"{flow_of.source}: its prior has no flow to begin with")
    return flow_of.prior


def _remove_states_but(state: Path) -> None:
    """Removes the states of models that are no longer there."""
    for other in state.parent.glob(PRIOR_STATES):
        if other != state:
            other.unlink(missing_ok=True)


def _facts(task: _Task, error: float) -> Facts:
    """If the prior learnt from other sounds than the model, both are named, and the model's licence is left out."""
    facts, words = task.checkpoint.facts, data_words(task.run, task.cache)
    other = words != facts.model_data.rpartition(TUNED_ON)[2]
    return replace(
        facts,
        data=f"{facts.model_data}{PRIOR_OF}{words}" if other else facts.model_data,
        license="" if other else facts.license,
        metrics=facts.metrics | {"prior_error": error},
    )


def _trainer(task: _Task, watch: PriorWatch) -> tuple[FlowTrainer, Examples]:
    """A trainer at its start, and the held-out examples; where nothing is held out, these are training sounds, too."""
    cache = task.cache
    model, spectrogram = task.checkpoint.model.to(task.device), Spectrogram(task.run.config.spectrogram).to(task.device)

    def encoded(split: str, count: int) -> Float[Tensor, "segments latent_channels latent_frames"]:
        return latents_of(model, spectrogram, cache, split, segments=count, dtype=torch.float16, progress=watch.encoded)

    latents = encoded("train", task.segments)
    mixture = _mixture(task, latents)
    training = Examples(latents, _kinds(latents, mixture))
    latents = encoded("valid" if cache.split("valid") else "train", HELD_OUT_SEGMENTS)
    held_out = Examples(latents, _kinds(latents, mixture))
    flow = _flow(task.begin_with, training, model.components, task.settings.seed)
    training, held_out = (_normalised(examples, flow).to(task.device) for examples in (training, held_out))
    flow, importance = flow.to(task.device), model.components.scale
    return FlowTrainer(flow, training, mixture=mixture, importance=importance, settings=task.settings), held_out


def _mixture(task: _Task, latents: Tensor) -> Prior:
    """The mixture of the state, if there is one: its flow knows these kinds, and no others; else a new one."""
    if not task.state.exists():
        return fit_mixture(task.checkpoint.model, latents[:LAST_PRIOR_SEGMENTS])
    mixture = task.checkpoint.prior.without_flow()
    load_state(task.state, Parts({"mixture": mixture}, {}, may_be_new=frozenset({"mixture"})))
    return mixture


def _kinds(latents: Tensor, mixture: Prior) -> Int[Tensor, " segments"]:
    return torch.cat([mixture.kinds_of(some) for some in latents.split(AT_ONCE)])


def _flow(prior: Prior, training: Examples, components: PrincipalComponents, seed: int) -> Flow:
    """The prior's flow, which knows much already, moved to the kinds of these data; a new one if there is none."""
    if prior.flow is None:
        torch.manual_seed(seed)
        flow = Flow(training.latents.shape[1], kinds=COMPONENTS)
        flow.learn_moments(training.latents, training.kind)
        flow.localise(components)
    else:
        flow = copy.deepcopy(prior.flow)
        flow.learn_kinds(training.latents, training.kind, former=_kinds(training.latents, prior))
    return flow


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
        raise InputError(
            f"{state}: of other training data, --flow, --segments or --set: give those again, or remove it "
            "to begin with these"
        )


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
            if due(settings.log_every) or error is not None:
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
