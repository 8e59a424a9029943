"""Trains the flow of a model's prior, on latents of the sounds that new ones are to be like."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audiovae.config import TrainingConfig
from audiovae.model.flow import Flow
from audiovae.model.prior import Prior
from audiovae.training import schedule
from audiovae.training.optimizer import average, flow_optimizers, step_if_finite
from audiovae.training.passes import RecordedPass
from audiovae.training.state import Parts, Position

SETTINGS = TrainingConfig(
    steps=6000,
    batch_size=96,
    learning_rate=3e-3,
    warmup_steps=200,
    final_learning_rate=6e-5,
    ema_decay=0.9985,
    validate_every=250,
    checkpoint_every=250,
)
CONTINUED = {"learning_rate": 6e-4, "final_learning_rate": 1.2e-5}
"""Of a flow that knows much already: at the rates of a new one it first forgets more than it learns."""
TIME_MEAN, TIME_SPREAD = -0.5, 1.5
"""Of the logits of the times that are learnt from (Esser et al., 2024). What a whole sequence has in common, above all
its level, shows through much noise already, and must be learnt at times below 0.1. With as few of those as a mean of 0
and a spread of 1 give, sounds came out too much alike. With a mean of -1 less is learnt of the noise in sounds, which
shows late."""
LEAST_NOISE = 0.05
"""Errors at less noise count as if there were so much: there are many ways to be almost right."""
ERROR_SEGMENTS = 512


@dataclass(frozen=True)
class Examples:
    """Latents as the flow sees them, and the kind of sounds that each segment is of."""

    latents: Float[Tensor, "segments latent_frames latent_channels"]
    kind: Int[Tensor, " segments"]

    def to(self, device: torch.device) -> "Examples":
        """The same on a device."""
        return Examples(self.latents.to(device), self.kind.to(device))


@dataclass(frozen=True)
class Noisy:
    """Examples with noise on them."""

    latents: Float[Tensor, "count latent_frames latent_channels"]
    noisy: Float[Tensor, "count latent_frames latent_channels"]
    time: Float[Tensor, " count"]
    kind: Int[Tensor, " count"]


class FlowTrainer:
    """A flow, the average of its weights, the best average so far, the mixture whose kinds it knows, and where its
    training is.
    """

    def __init__(
        self,
        flow: Flow,
        examples: Examples,
        *,
        mixture: Prior,
        importance: Float[Tensor, " latent_channels"],
        settings: TrainingConfig = SETTINGS,
    ) -> None:
        self.flow, self.examples, self.settings = flow.train().requires_grad_(True), examples, settings
        self.ema, self.best = (copy.deepcopy(flow).eval().requires_grad_(False) for _ in range(2))
        self.optimizers = flow_optimizers(flow, settings.learning_rate, settings.weight_decay)
        heard = importance.to(flow.std) * flow.std
        self.weight = heard / heard.mean()
        self.back = RecordedPass(flow, self._back) if heard.is_cuda else self._back
        self.mixture, self.position = mixture, Position()

    def parts(self) -> Parts:
        """All that a state must hold."""
        optimizers = {f"optimizer{number}": optimizer for number, optimizer in enumerate(self.optimizers)}
        modules = {"model": self.flow, "ema": self.ema, "best": self.best, "mixture": self.mixture}
        return Parts(modules, optimizers, may_be_new=frozenset({"mixture"}))

    def step(self) -> Float[Tensor, ""]:
        """One step; returns its loss. One that isn't finite changes nothing, and is counted."""
        settings, step = self.settings, self.position.step
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate(step, settings)
        drawn = _drawn(self.examples, settings.batch_size, seed=(settings.seed << 40) + step)
        loss = self.back(drawn.latents, drawn.noisy, drawn.time, drawn.kind)
        finite = step_if_finite(self.optimizers, self.flow, clip=settings.gradient_clip)
        if finite:
            average(self.ema, self.flow, decay=schedule.ema_decay(step, settings))
        self.position = self.position.after(finite=finite)
        return loss

    def keep_best(self, held_out: Examples) -> float:
        """Compares the average with the best one on held-out examples, keeps the better one, and returns its error."""
        errors = [self.error(model, held_out) for model in (self.ema, self.best)]
        if errors[0] < errors[1]:
            self.best.load_state_dict(self.ema.state_dict())
        return min(errors)

    @torch.no_grad()
    def error(self, flow: Flow, examples: Examples) -> float:
        """Its loss on examples, relative to that of the kinds' Gaussians: 1 is nothing learnt."""
        drawn = _drawn(examples, ERROR_SEGMENTS, seed=0)
        return float(self._loss(flow, drawn) / self._loss(flow.gaussian, drawn))

    def _back(self, latents: Tensor, noisy: Tensor, time: Tensor, kind: Tensor) -> Float[Tensor, ""]:
        loss = self._loss(self.flow, Noisy(latents, noisy, time, kind))
        loss.backward()
        return loss.detach()

    def _loss(self, model: Callable[..., Tensor], drawn: Noisy) -> Float[Tensor, ""]:
        error = (model(drawn.noisy, drawn.time, drawn.kind) - drawn.latents).square() * self.weight
        return (error / (1 - drawn.time[:, None, None]).clamp_min(LEAST_NOISE)).mean()


def _drawn(examples: Examples, count: int, *, seed: int) -> Noisy:
    """Random examples at random times: all of it is a function of the seed, so that a resumed run draws the same."""
    device = examples.latents.device
    generator = torch.Generator(device).manual_seed(seed)
    index = torch.randint(len(examples.kind), (count,), generator=generator, device=device)
    latents, kind = examples.latents[index].float(), examples.kind[index]
    time = (TIME_MEAN + TIME_SPREAD * torch.randn(count, generator=generator, device=device)).sigmoid()
    noise = torch.randn(latents.shape, generator=generator, device=device)
    t = time[:, None, None]
    return Noisy(latents, (1 - t) * noise + t * latents, time, kind)
