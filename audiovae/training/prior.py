"""``audiovae train-prior``: gives the model of a finished run a prior that knows how notes begin and end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audiovae.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from audiovae.errors import InputError
from audiovae.folder_lock import locked
from audiovae.model.prior import Prior
from audiovae.spectrogram import Spectrogram
from audiovae.training.data import open_cache
from audiovae.training.encoded import latents_of
from audiovae.training.flow import SETTINGS, Examples, FlowTrainer
from audiovae.training.loop import MODEL_FILE, is_cpu
from audiovae.training.run import PRIOR_STATE, Run, resumed_run
from audiovae.training.state import load_state, save_state

SEGMENTS, HELD_OUT_SEGMENTS, KINDS_AT_ONCE = 16384, 512, 512


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
    """On held-out audio, relative to that of the kinds' Gaussians."""


def train_prior(
    folder: Path,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    watch: PriorWatch = PriorWatch(),
) -> PriorOutcome:
    """Trains the flow of the newest model in a run's folder, and puts the model with it in the model's place.

    Called again, it goes on where it was; after ``minutes`` of steps it saves its state and ends.

    Raises InputError for a folder that is no run or has no model yet, and when it is interrupted.
    """
    run, settings = resumed_run(folder, []), SETTINGS.model_copy(update={"steps": steps or SETTINGS.steps})
    on = torch.device("cpu" if is_cpu(device) else "cuda")
    with locked(folder):
        checkpoint = load_checkpoint(folder / MODEL_FILE)
        state = folder / PRIOR_STATE.replace("*", checkpoint.fingerprint)
        torch.manual_seed(settings.seed)
        prior = checkpoint.prior.with_flow()
        assert prior.flow is not None
        training, held_out = _examples(run, checkpoint, prior, on, watch)
        trainer = FlowTrainer(
            prior.flow.to(on), training, importance=checkpoint.model.components.scale, settings=settings
        )
        if state.exists():
            trainer.position = load_state(state, trainer.parts())
        _train(trainer, held_out, state, watch, minutes)
        error, step = trainer.error(held_out), trainer.position.step
        if step >= settings.steps:
            prior.flow = trainer.ema.cpu()
            facts = replace(checkpoint.facts, metrics=checkpoint.facts.metrics | {"prior_error": error})
            save_checkpoint(folder / MODEL_FILE, model=checkpoint.model.cpu(), prior=prior, facts=facts, force=True)
    return PriorOutcome(step, step >= settings.steps, error)


def _examples(
    run: Run, checkpoint: Checkpoint, prior: Prior, on: torch.device, watch: PriorWatch
) -> tuple[Examples, Examples]:
    """Of the training split, whose moments the flow learns, and of the held-out one, if there is one."""
    assert prior.flow is not None
    cache = open_cache(run.data, run.cache, run.config, progress=watch.decoded)
    model, spectrogram = checkpoint.model.to(on), Spectrogram(run.config.spectrogram).to(on)
    examples = []
    for split, count in (("train", SEGMENTS), ("valid" if cache.split("valid") else "train", HELD_OUT_SEGMENTS)):
        latents = latents_of(
            model, spectrogram, cache, split, segments=count, dtype=torch.float16, progress=watch.encoded
        )
        kind = torch.cat([prior.kinds_of(some) for some in latents.split(KINDS_AT_ONCE)])
        if not examples:
            prior.flow.learn_moments(latents, kind)
        normalised = torch.cat([prior.flow.normalised(some.mT).half() for some in latents.split(KINDS_AT_ONCE)])
        examples.append(Examples(normalised.to(on), kind.to(on)))
    training, held_out = examples
    return training, held_out


def _train(trainer: FlowTrainer, held_out: Examples, state: Path, watch: PriorWatch, minutes: float | None) -> None:
    """To the last step, or until time is up."""
    settings, ends_at = trainer.settings, None if minutes is None else time.monotonic() + 60 * minutes

    def due(every: int) -> bool:
        return trainer.position.step % every == 0 or trainer.position.step == settings.steps

    try:
        while trainer.position.step < settings.steps and (ends_at is None or time.monotonic() < ends_at):
            loss = trainer.step()
            if due(settings.log_every):
                error = trainer.error(held_out) if due(settings.validate_every) else None
                watch.stepped(PriorProgress(trainer.position.step, settings.steps, float(loss), error))
            if due(settings.checkpoint_every):
                save_state(state, trainer.parts(), trainer.position)
        save_state(state, trainer.parts(), trainer.position)
    except (KeyboardInterrupt, BrokenPipeError):
        saved = f"goes on from the last state saved (every {settings.checkpoint_every} steps)"
        message = f"{state.parent}: interrupted after step {trainer.position.step}"
        raise InputError(f"{message}; audiovae train-prior {state.parent} {saved}") from None
