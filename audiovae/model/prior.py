"""p(z): kinds of sounds, and how their latents move, to draw new sounds from.

What lies in the middle of all sounds is like none of them, so a sequence is of one component k, a kind of sound. It has
a centre of its own, and moves around it in a few directions together and in each channel alone:

    x_t = centre_k + between_k c + factors_k f_t + rest_k n_t,    c ~ N(0, I)

f and n have unit variance, and each of their coordinates is a first-order autoregression with a memory of its own:
sequences of any length stay where the data are. A mixture of factor analysers (Ghahramani & Hinton, 1996) whose factors
move in time. One component with rest 1 and nothing else is the N(0, I) of the VAE, frame by frame.

Notes that begin and end are beyond this. Where a ``Flow`` was trained, the kind is the mixture's, and the flow draws
the sequence.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from audiovae.model.flow import Flow

COMPONENTS, SEGMENTS_OF_A_COMPONENT = 128, 16
"""Kinds of sounds, at most; and the segments that there must be for each of them."""
DIRECTIONS_OF_CENTRES, FACTORS = 2, 4
"""Of each kind. More of them take the room in the package that the flow needs, and bring what is drawn nearer to real
sounds only where there are so few segments that there are few kinds."""
MAX_MEMORY = 0.98
"""Correlation of neighbouring frames, at most: what moves more slowly is a matter of the centre."""
LEAST_AMOUNT = 1e-6
"""Of a variation; less leaves the latents as they are."""
VARIANCE_FLOOR = 1e-3
"""Of a channel in a kind, where kinds are compared: a channel that never moved must not decide alone."""


class Prior(nn.Module):
    """The prior of this module's formulas, fitted in closed form rather than trained; and a flow, if it has one."""

    share: Tensor
    centre: Tensor
    between: Tensor
    factors: Tensor
    factor_memory: Tensor
    rest: Tensor
    rest_memory: Tensor
    flow: Flow | None

    def __init__(self, latent_channels: int) -> None:
        """N(0, I) on each frame, until ``fit`` or ``load_state_dict`` gives it something better."""
        super().__init__()
        directions, factors = (min(size, latent_channels) for size in (DIRECTIONS_OF_CENTRES, FACTORS))
        self.register_buffer("share", torch.eye(COMPONENTS)[0])
        self.register_buffer("centre", torch.zeros(COMPONENTS, latent_channels))
        self.register_buffer("between", torch.zeros(COMPONENTS, latent_channels, directions))
        self.register_buffer("factors", torch.zeros(COMPONENTS, latent_channels, factors))
        self.register_buffer("factor_memory", torch.zeros(COMPONENTS, factors))
        self.register_buffer("rest", torch.ones(COMPONENTS, latent_channels))
        self.register_buffer("rest_memory", torch.zeros(COMPONENTS, latent_channels))
        self.register_module("flow", None)

    def with_flow(self, flow: Flow | None = None) -> "Prior":
        """The same mixture with a flow; by default, with one that knows nothing yet."""
        prior = self.without_flow()
        prior.flow = Flow(self.centre.shape[1], kinds=COMPONENTS) if flow is None else flow
        return prior

    def without_flow(self) -> "Prior":
        """The mixture alone."""
        prior = Prior(self.centre.shape[1])
        prior.load_state_dict(dict(self.named_buffers(recurse=False)))
        return prior

    @classmethod
    def standard(cls, latent_channels: int) -> "Prior":
        """N(0, I) on each frame, alike and independent: what the KL pulls towards, and the control of ``fit``."""
        return cls(latent_channels)

    @classmethod
    def fit(
        cls,
        segments: Float[Tensor, "segments latent_channels latent_frames"],
        *,
        importance: Float[Tensor, " latent_channels"] | None = None,
    ) -> "Prior":
        """Sorts segments into kinds by means and deviations of their channels, and fits each kind by moments.

        ``importance`` says how much a channel counts when they are sorted; by default all count alike.
        Raises ValueError below 2 segments of 2 frames, and for values that are NaN or infinite.
        """
        count, latent_channels, latent_frames = segments.shape
        if count < 2 or latent_frames < 2:
            raise ValueError(f"segments {list(segments.shape)}: a prior needs at least 2 segments of 2 latent frames")
        if not segments.isfinite().all():
            raise ValueError("segments: NaN or infinite values")
        x = segments.detach().cpu().float()
        prior, kind = cls(latent_channels), _kinds(x, importance)
        prior.share.zero_()
        for index in range(int(kind.max()) + 1):
            prior._fit_component(index, x[kind == index])
            prior.share[index] = (kind == index).float().mean()
        return prior

    def _fit_component(self, index: int, x: Float[Tensor, "segments latent_channels latent_frames"]) -> None:
        own = x.mean(2)
        self.centre[index] = own.mean(0)
        around = x - own[:, :, None]
        covariance = torch.einsum("sct,sdt->cd", around, around) / (len(x) * x.shape[2])
        directions = torch.linalg.eigh(covariance)[1][:, -self.factors.shape[2] :]
        factors = torch.einsum("cf,sct->sft", directions, around)
        deviation, self.factor_memory[index], of_mean = _movement(factors)
        self.factors[index] = directions * deviation
        left = around - torch.einsum("cf,sft->sct", directions, factors)
        self.rest[index], self.rest_memory[index], rest_of_mean = _movement(left)
        # A segment's mean follows what moves in it: only what is more than that is a matter of the centres.
        centres = torch.cov(own.mT, correction=0).reshape(covariance.shape)
        centres -= directions * of_mean @ directions.mT + rest_of_mean.diag()
        sizes, directions = (part[..., -self.between.shape[2] :] for part in torch.linalg.eigh(centres))
        self.between[index] = directions * sizes.clamp_min(0).sqrt()
        # What the centres vary in other directions is added to what each channel varies alone: none may be lost.
        left_out = (centres.diagonal() - self.between[index].square().sum(1)).clamp_min(0)
        self.rest[index] = (self.rest[index].square() + left_out).sqrt()

    @property
    def mean(self) -> Float[Tensor, " latent_channels"]:
        """Of all frames of all sounds."""
        return self.share @ self.centre

    @property
    def variance(self) -> Float[Tensor, " latent_channels"]:
        """Of each channel, over all frames of all sounds."""
        return self.share @ (self._variances() + (self.centre - self.mean).square())

    def _variances(self) -> Float[Tensor, "components latent_channels"]:
        return self.between.square().sum(2) + self.factors.square().sum(2) + self.rest.square()

    def kind_of(self, latents: Float[Tensor, "channels latent_channels latent_frames"]) -> int:
        """The likeliest component for a recording's frames, each channel and frame taken for itself."""
        return int(self.kinds_of(latents.mT.flatten(0, 1).mT[None]))

    def kinds_of(self, segments: Float[Tensor, "segments latent_channels latent_frames"]) -> Int[Tensor, " segments"]:
        """The likeliest component for each of many mono sounds."""
        segments = segments.detach().cpu()
        mean, own = segments.mean(2, dtype=torch.float64), segments.double().var(2, correction=0)
        centre, variance = self.centre.cpu().double(), self._variances().cpu().double().clamp_min(VARIANCE_FLOOR)
        square = own + mean.square()
        distance = square @ (1 / variance).mT - 2 * mean @ (centre / variance).mT + (centre.square() / variance).sum(1)
        likelihood = -0.5 * (distance + variance.log().sum(1))
        return torch.where(self.share.cpu() > 0, likelihood, -torch.inf).argmax(1)

    def sample(
        self, latent_frames: int, *, count: int, generator: torch.Generator, kind: int | None = None
    ) -> Float[Tensor, "count latent_channels latent_frames"]:
        """Draws ``count`` sequences, of one component if it is given, on the CPU: every device gives the same ones.

        Noise is drawn frame by frame, so that a longer sequence starts like a shorter one of the same generator; with
        a flow, as far as that doesn't look ahead to the end.
        """
        if kind is None:
            share = self.share if self.flow is None else self.flow.share
            kinds = torch.multinomial(share.cpu().double(), count, replacement=True, generator=generator)
        else:
            kinds = torch.full((count,), kind)
        if self.flow is not None:
            return self.flow.carry(self._noise(latent_frames, count, generator), kinds)
        return self._move(kinds, latent_frames, generator)

    def vary(
        self,
        latents: Float[Tensor, "channels latent_channels latent_frames"],
        *,
        amount: float | int,
        generator: torch.Generator,
    ) -> Float[Tensor, "channels latent_channels latent_frames"]:
        """Latents of the same kind: for an amount of 0 those given, for 1 a new sample, the same in all channels.

        In between, sqrt(1 - amount^2) of the given latents and ``amount`` of what is new. The mixture adds both around
        the kind's centre, which keeps the kind's variance. The flow starts from the latents with noise on them, in
        these proportions.
        """
        if amount < LEAST_AMOUNT:
            return latents
        kept, kind, frames = math.sqrt(1 - amount**2), self.kind_of(latents), latents.shape[2]
        if self.flow is None:
            sample = self.sample(frames, count=1, generator=generator, kind=kind).to(latents)
            centre = self.centre[kind].to(latents)[:, None]
            return centre + kept * (latents - centre) + amount * (sample - centre)
        noise = self._noise(frames, 1, generator).expand(len(latents), -1, -1)
        kinds = torch.full((len(latents),), kind)
        return self.flow.carry(noise, kinds, latents=latents.cpu().float(), start=kept / (kept + amount)).to(latents)

    def _noise(
        self, latent_frames: int, count: int, generator: torch.Generator
    ) -> Float[Tensor, "count latent_channels latent_frames"]:
        shape = count, self.centre.shape[1]
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(latent_frames)], dim=2)

    def _move(
        self, kinds: Int[Tensor, " count"], latent_frames: int, generator: torch.Generator
    ) -> Float[Tensor, "count latent_channels latent_frames"]:
        """Sequences of the mixture's components, in double precision."""
        part = {name: tensor.detach().cpu().double()[kinds] for name, tensor in self.named_buffers(recurse=False)}

        def noise(*shape: int) -> Tensor:
            return torch.randn(len(kinds), *shape, generator=generator, device=generator.device).cpu().double()

        directions, factors = part["between"].shape[2], part["factors"].shape[2]
        centre = part["centre"] + (part["between"] @ noise(directions, 1))[:, :, 0]
        memory = torch.cat([part["factor_memory"], part["rest_memory"]], dim=1)
        news, moving = (1 - memory.square()).sqrt(), noise(memory.shape[1])
        frames = []
        for _ in range(latent_frames):
            together = (part["factors"] @ moving[:, :factors, None])[:, :, 0]
            frames.append((centre + together + part["rest"] * moving[:, factors:]).to(self.centre))
            moving = memory * moving + news * noise(memory.shape[1])
        return torch.stack(frames, dim=2)


def _kinds(
    x: Float[Tensor, "segments latent_channels latent_frames"], importance: Float[Tensor, " latent_channels"] | None
) -> Int[Tensor, " segments"]:
    """Which component each segment is of, numbered without gaps: k-means (Arthur & Vassilvitskii, 2007)."""
    from scipy.cluster.vq import kmeans2

    if importance is not None:
        x = x * importance.detach().cpu()[:, None]
    features = torch.cat([x.mean(2), x.std(2)], dim=1).numpy()
    count = max(1, min(COMPONENTS, len(x) // SEGMENTS_OF_A_COMPONENT))
    _, labels = kmeans2(features, count, iter=30, minit="++", missing="warn", seed=np.random.default_rng(0))
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1])


def _movement(
    x: Float[Tensor, "segments coordinates latent_frames"],
) -> tuple[Float[Tensor, " coordinates"], Float[Tensor, " coordinates"], Float[Tensor, " coordinates"]]:
    """Standard deviation and memory of autoregressions, and the variance that the mean of a segment has.

    Every segment's own mean was taken away, and with it some of all three. Of unit variance with memory r, over F
    frames whose mean has the variance V,

        E[sum of u_t^2] / F = 1 - V
        E[sum of u_t u_(t-1)] / F = (F - 1) / F (r + V) - 2 V + 2 (r^0 + ... + r^(F-1)) / F^2

    and r is where the second over the first is what the data have.
    """
    frames = x.shape[2]
    lag0 = x.square().sum((0, 2)) / (len(x) * frames)
    lag1 = (x[:, :, 1:] * x[:, :, :-1]).sum((0, 2)) / (len(x) * frames)
    memory = np.linspace(0, MAX_MEMORY, 200)
    lags = np.arange(frames)
    powers = memory[:, None] ** lags
    of_mean = (2 * powers @ (frames - lags) - frames) / frames**2
    expected = (frames - 1) / frames * (memory + of_mean) - 2 * of_mean + 2 * powers.sum(1) / frames**2
    found = np.interp((lag1 / lag0.clamp_min(1e-12)).numpy(), expected / (1 - of_mean), memory)
    # What moves so slowly that most of it is taken for the centre must not be made up for twice.
    share = torch.from_numpy(np.interp(found, memory, of_mean)).float().clamp_max(0.5)
    variance = lag0 / (1 - share)
    return variance.sqrt(), torch.from_numpy(found).float(), variance * share
