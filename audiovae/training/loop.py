"""The training loop, read top to bottom: set up, step, log, validate, save."""

import copy
import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader

from audiovae.checkpoint import Checkpoint, Facts, save_checkpoint
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.model.posterior import Posterior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.training import schedule
from audiovae.training.adversary import Adversary
from audiovae.training.components import fit_components
from audiovae.training.data import Cache
from audiovae.training.encoded import LAST_PRIOR_SEGMENTS, PRIOR_SEGMENTS, fit_prior
from audiovae.training.log import RunLog
from audiovae.training.losses import Losses, training_losses
from audiovae.training.optimizer import average, model_optimizer, step_if_finite
from audiovae.training.passes import AutoencodingStep, RecordedPass
from audiovae.training.segments import Segments, StepBatches, by_pitch, loaded, spectrograms
from audiovae.training.state import MODEL_FILE, STATE_FILE, Parts, Position, load_state, model_step, save_state
from audiovae.training.validation import Validation, measured

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What the loop tells whoever watches, every ``log_every`` steps; of several processes, about the first one's."""

    step: int
    loss: float
    error_db: float
    kl: float
    learning_rate: float
    skipped_steps: int


def is_cpu(device: str) -> bool:
    """Whether a device's name means the CPU: auto does without CUDA, whatever else accelerate would find."""
    return device == "cpu" or not torch.cuda.is_available()


class Trainer:
    """One run in a folder: a log, the newest state and the newest model. Under ``torchrun``, one of its processes."""

    def __init__(self, config: Config, cache: Cache, run: Path, *, device: str, facts: Facts) -> None:
        self.config, self.run, self.facts, self.cache = config, run, facts, cache
        self.accelerator = Accelerator(cpu=is_cpu(device), mixed_precision=config.training.mixed_precision)
        torch.manual_seed(config.training.seed)
        vae = VAE(config).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch forgot it
        self.vae = vae.to(self.accelerator.device)
        self.ema = copy.deepcopy(self.vae).eval().requires_grad_(False)
        self.spectrogram = Spectrogram(config.spectrogram).to(self.accelerator.device)
        self.optimizer = model_optimizer(self.vae, config.training.weight_decay)
        self.step_module = self.accelerator.prepare_model(AutoencodingStep(self.vae))
        playing = config.training.adversarial_weight > 0
        self.adversary = Adversary(config.training, self.spectrogram, self.accelerator) if playing else None
        alone = self.accelerator.num_processes == 1 and not playing
        recorded = alone and self.accelerator.device.type == "cuda"
        self.back = RecordedPass(self.vae, self._back) if recorded else self._back
        self.position = Position()
        self.tunes = False

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Tunes a model of the same config further: its weights, with a new optimizer, from step 0."""
        for model in (self.vae, self.ema):
            model.start_from(checkpoint.model)
        self.tunes = True

    def resume(self) -> None:
        """Continues from the run's newest state. Raises InputError if there is none, or it is another model's."""
        self.position = load_state(self.run / STATE_FILE, self._parts())

    def train(
        self, watch: Callable[[Progress], None] = lambda progress: None, *, stop: Callable[[], bool] | None = None
    ) -> Validation | None:
        """Runs to the last step and returns the last validation; None if there was none, or another process has it.

        ``stop`` is asked after every step: once it says yes, the state is saved, and a later resume goes on as if
        nothing had happened.

        Raises InputError if it is interrupted, too many steps in a row aren't finite, or the disk refuses; and, once
        the state is saved, if whoever watches is gone (BrokenPipeError).
        """
        try:
            with self._log_of_this_process() as log:
                if self.position == Position():
                    self._begin(log)
                return self._train(log, watch, stop)
        except KeyboardInterrupt:
            raise InputError(self._interrupted()) from None
        except OSError as error:
            raise InputError(f"{error.filename or self.run}: {error.strerror or error}") from error

    def _log_of_this_process(self) -> AbstractContextManager[RunLog | None]:
        """Only the first process writes."""
        return RunLog(self.run, first_step=self.position.step) if self.accelerator.is_main_process else nullcontext()

    def _begin(self, log: RunLog | None) -> None:
        """Fits a new model's components; measures one that is tuned, so that one sees what tuning brings."""
        if not self.tunes:
            fit_components(self.vae, self.spectrogram, self.cache)
            self.ema.components.load_state_dict(self.vae.components.state_dict())
        elif log:
            measured(self.ema, self.spectrogram, self.cache, log, step=0)

    def _train(
        self, log: RunLog | None, watch: Callable[[Progress], None], stop: Callable[[], bool] | None
    ) -> Validation | None:
        training, result, unheard = self.config.training, None, False
        if self.position.step >= training.steps and model_step(self.run) < self.position.step:
            return self._validate(log)  # training.steps was lowered since: the model at that step is not yet saved
        with closing(self._batches()) as batches:
            for target in batches:
                losses = self._step(target)
                if log and self._due(training.log_every):
                    unheard = not _told(watch, self._log(log, losses))
                if self._due(training.validate_every):
                    result = self._validate(log)
                asking = stop is not None or self._due(training.log_every)
                stopping = asking and self._any(unheard or (stop is not None and stop()))
                if stopping or self._due(training.checkpoint_every):
                    self._save_state()
                if stopping:
                    break
        if unheard:
            at = f"step {self.position.step}, state saved: --resume {self.run} goes on"
            raise InputError(f"{self.run}: nobody reads the output any more: ended at {at}")
        return result

    def _any(self, said: bool) -> bool:
        """Whether any process says so: all of them must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return said
        return bool(self.accelerator.reduce(torch.tensor(float(said), device=self.accelerator.device)))

    def _due(self, every: int) -> bool:
        step = self.position.step
        return step % every == 0 or step == self.config.training.steps

    def _interrupted(self) -> str:
        """The interrupted step may have changed some weights and not others: only what is on disk is whole."""
        message = f"{self.run}: interrupted after step {self.position.step}"
        if not (self.run / STATE_FILE).exists():
            return f"{message}; no state was saved yet: --force begins again"
        every = self.config.training.checkpoint_every
        return f"{message}; --resume {self.run} continues from the last state saved (every {every} steps)"

    def _batches(self) -> Generator[Float[Tensor, "batch 1 n_bands frames"], None, None]:
        """This process's share of every step from the current one on, as spectrograms."""
        training, accelerator, workers = self.config.training, self.accelerator, self.config.data.workers
        loader = DataLoader(
            Segments(self.cache, "train", self.config, augment=True),
            batch_sampler=StepBatches(
                self.position.step,
                training.steps,
                batch_size=training.batch_size,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
            ),
            collate_fn=by_pitch,
            num_workers=workers,
            # A fork would copy locks that torch's, TensorBoard's or CUDA's threads may hold at that moment.
            multiprocessing_context="spawn" if workers else None,
            pin_memory=accelerator.device.type == "cuda",
        )
        with closing(loaded(loader)) as batches:
            for batch in batches:
                yield spectrograms(batch, self.spectrogram)

    def _step(self, target: Float[Tensor, "batch 1 n_bands frames"]) -> Losses:
        """Forward, backward (which averages the gradients of all processes), and an optimizer step if all is finite."""
        training, step = self.config.training, self.position.step
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step, training)
        beta = torch.full((), schedule.beta(step, training), device=target.device)
        losses = self.back(target, self._noise(len(target)), beta)
        finite = step_if_finite([self.optimizer], self.vae, clip=training.gradient_clip)
        if finite:
            average(self.ema, self.vae, decay=schedule.ema_decay(step, training))
        self._advance(finite=finite)
        return losses

    def _back(self, target: Tensor, noise: Tensor, beta: Tensor) -> Losses:
        """Losses of a batch, and their gradients."""
        with self.accelerator.autocast():
            reconstruction, mean, logvar = self.step_module(target, noise)
        losses = training_losses(
            reconstruction,
            target,
            Posterior(mean, logvar) if self.config.model.variational else None,
            beta=beta,
            training=self.config.training,
            spectrogram=self.spectrogram,
        )
        loss = losses.total
        if self.adversary:
            loss = self.adversary.joined(loss, reconstruction, target, step=self.position.step)
        self.accelerator.backward(loss)
        return losses.detached()

    def _noise(self, batch_size: int) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Posterior noise is a function of seed, step and process, so that a resumed run draws the same. A plain
        autoencoder has none."""
        accelerator, model = self.accelerator, self.config.model
        shape = batch_size, model.latent_channels, self.config.data.segment_latent_frames
        if not model.variational:
            return torch.zeros(shape, device=accelerator.device)
        number = self.position.step * accelerator.num_processes + accelerator.process_index
        seed = ((self.config.training.seed << 40) + number) % 2**64
        generator = torch.Generator(accelerator.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=accelerator.device)

    def _advance(self, *, finite: bool) -> None:
        """Every process sees the same averaged gradients, so all of them skip, and give up, at the same step."""
        self.position, most = self.position.after(finite=finite), self.config.training.max_skipped_steps
        if self.position.skipped_in_a_row >= most:
            raise InputError(
                f"{self.run}: loss or gradient was not finite for {most} steps in a row, up to step "
                f"{self.position.step}; lower training.learning_rate and --resume, or look at the data"
            )

    def _log(self, log: RunLog, losses: Losses) -> Progress:
        step = self.position.step - 1
        rate, beta = schedule.learning_rate(step, self.config.training), schedule.beta(step, self.config.training)
        progress = Progress(
            step=self.position.step,
            loss=float(losses.total),
            error_db=float(losses.error_db),
            kl=float(losses.kl),
            learning_rate=rate,
            skipped_steps=self.position.skipped_steps,
        )
        names = ("level", "difference", "convergence", "multi_resolution", "log")
        parts = {name: float(getattr(losses, name)) for name in names}
        adversarial = self.adversary.figures() if self.adversary else {}
        row = asdict(progress) | parts | {"beta": beta} | adversarial
        log.write(progress.step, row, curves={f"training/{name}": row[name] for name in row if name != "step"})
        return progress

    def _validate(self, log: RunLog | None) -> Validation | None:
        """Measures the averaged weights on held-out audio, and saves them as a model that can be used at once."""
        self.accelerator.wait_for_everyone()
        if log is None:
            return None
        step = self.position.step
        validation = measured(self.ema, self.spectrogram, self.cache, log, step=step)
        if validation.collapsed:
            logger.warning(f"{self.run}: step {step}: {validation.in_collapse}")
        segments = LAST_PRIOR_SEGMENTS if step == self.config.training.steps else PRIOR_SEGMENTS
        metrics = {
            "validation_error_db": validation.error_db,
            "validation_mel_error_db": validation.mel_error_db,
            "active_units": float(validation.active_units),
        }
        save_checkpoint(
            self.run / MODEL_FILE,
            model=self.ema,
            prior=fit_prior(self.ema, self.spectrogram, self.cache, segments=segments),
            facts=replace(self.facts, step=step, metrics=metrics),
            force=True,
        )
        return validation

    def _save_state(self) -> None:
        if self.accelerator.is_main_process:
            save_state(self.run / STATE_FILE, self._parts(), self.position)
        self.accelerator.wait_for_everyone()

    def _parts(self) -> Parts:
        modules: dict[str, nn.Module] = {"model": self.vae, "ema": self.ema}
        optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        if self.adversary is None:
            return Parts(modules, optimizers)
        modules["discriminator"] = self.adversary.discriminator
        optimizers["discriminator_optimizer"] = self.adversary.optimizer
        return Parts(modules, optimizers, may_be_new=frozenset({"discriminator", "discriminator_optimizer"}))


def _told(watch: Callable[[Progress], None], progress: Progress) -> bool:
    """Tells of progress; False if nobody reads the output any more, as after ``| head``."""
    try:
        watch(progress)
    except BrokenPipeError:
        return False
    return True
