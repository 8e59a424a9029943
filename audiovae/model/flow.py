"""A flow from noise to latents of one kind of sounds: it knows how notes begin and end, as no Gaussian can.

At time t, from 0 to 1, a sequence z with noise n on it is

    z_t = (1 - t) n + t z,    n ~ N(0, I)

and dz_t / dt = (E[z | z_t] - z_t) / (1 - t) carries noise to sequences that are distributed as the data are: flow
matching (Lipman et al., 2023), with the straight paths of a rectified flow (Liu et al., 2023). What the Gaussian of its
kind expects, each frame and channel for itself, is a formula; a network adds what it knows better, and when sounds are
made this counts a little more than it is (``GUIDANCE``). It looks 31 frames each way, so that sequences may be of any
length.

Most channels hold little more than the noise in a sound, and that is as strong as the sound is, moment by moment and
band by band. So the network also says how much each of them varies, and what of z_t is then sound is a formula after
that of a Wiener filter. But a channel is a pattern over all bands. The filter acts on other coordinates, each of a few
bands, which training begins with (``localise``) and changes.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from audiovae.model.principal_components import PrincipalComponents

WIDTH, DILATIONS = 256, (1, 2, 4, 8, 16)
TIME_FREQUENCIES = 32
COARSE_SHARE = 8
"""One channel in so many, from the first on, carries how loud a sound is in its bands: only the others are rotated."""
LOCAL_GROUP, LEAST_POWER = 8, 0.1
"""Neighbouring coordinates whose power the network sees as one logarithm, and what is added to it."""
MOST_LOG_VARIANCE = 4.0
"""Natural logarithm of the factor by which the network can make a variance larger or smaller than its kind's."""
STEPS = 24
"""Of the integration. Twice as many take twice as long and bring new sounds no nearer to real ones."""
FULL_STRENGTH_NOISE = 0.3
"""Noise that a variation must start with for the network to have its full part in it; with less, its part is smaller.
Without noise there must be no change, but the network makes some of its own."""
GUIDANCE = 1.12
"""How much of what the network adds to its kind's Gaussian counts: away from a model that knows less (Karras et al.,
2024, "Guiding a diffusion model with a bad version of itself"). So much that latents drawn by the bundled model vary as
much as those of its data; at 1 they vary less."""
FRAMES_AT_ONCE = 1 << 16
VARIANCE_FLOOR = 0.01
"""Of a channel in a kind, relative to its variance in all sounds."""


class Flow(nn.Module):
    """The network, and the moments of the kinds of sounds that it knows.

    Inside, latents lie frame by frame, and have zero mean and unit variance over all sounds.
    """

    mean: Tensor
    std: Tensor
    centre: Tensor
    variance: Tensor
    share: Tensor

    def __init__(self, latent_channels: int, kinds: int) -> None:
        """N(0, I) for every kind, until ``learn_moments`` and training."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))
        self.register_buffer("centre", torch.zeros(kinds, latent_channels))
        self.register_buffer("variance", torch.ones(kinds, latent_channels))
        self.register_buffer("share", torch.eye(kinds)[0])
        self.condition = Condition(kinds)
        self.into = nn.Linear(latent_channels, WIDTH)
        self.local = nn.Parameter(torch.eye(latent_channels))
        self.power = nn.Linear(math.ceil(latent_channels / LOCAL_GROUP), WIDTH, bias=False)
        self.blocks = nn.ModuleList(FlowBlock(dilation) for dilation in DILATIONS)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, latent_channels)
        self.spread = nn.Linear(WIDTH, latent_channels)
        for last in (self.out, self.spread):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @torch.no_grad()
    def learn_moments(
        self, segments: Float[Tensor, "segments latent_channels latent_frames"], kind: Int[Tensor, " segments"]
    ) -> None:
        """Takes over mean and variance of all frames and of each kind's frames, and the kinds' shares. A kind without
        segments stays N(0, I).
        """
        known, share, mean, variance = _moments(segments, kind)
        middle = share @ mean
        self.mean.copy_(middle)
        self.std.copy_((share @ (variance + (mean - middle).square())).sqrt().clamp_min(1e-6))
        self._take_kinds(known, share, mean, variance)

    @torch.no_grad()
    def localise(self, components: PrincipalComponents) -> None:
        """Begins with coordinates that are of as few bands each as can be, in the order of these.

        They are the eigenvectors of the bands' numbers in the space of the channels, which is what makes functions of
        one dimension most local (Marzari & Vanderbilt, 1997, "Maximally localized generalized Wannier functions for
        composite energy bands"). Where no components were fitted, they are the channels.
        """
        if not components.analysis.any():
            return
        coarse = len(self.mean) // COARSE_SHARE
        left, _, right = torch.linalg.svd(components.analysis.double(), full_matrices=False)
        patterns = (left @ right)[coarse:]
        n_bands, frames = components.patch
        band = torch.arange(n_bands, dtype=torch.float64, device=patterns.device).repeat_interleave(frames)
        self.local[coarse:, coarse:] = torch.linalg.eigh(patterns * band @ patterns.mT)[1].mT.to(self.local)

    @torch.no_grad()
    def learn_kinds(
        self,
        segments: Float[Tensor, "segments latent_channels latent_frames"],
        kind: Int[Tensor, " segments"],
        *,
        former: Int[Tensor, " segments"],
    ) -> None:
        """Goes over to other kinds of sounds. Their moments are taken over; what the network knows of each becomes what
        it knew of the kind that most of its segments belonged to before (``former``). Mean and variance of all frames
        stay.
        """
        known, share, mean, variance = _moments(segments, kind)
        self._take_kinds(known, share, mean, variance)
        like = torch.stack([former[kind == index].mode().values for index in known])
        self.condition.of_kind.weight[known] = self.condition.of_kind.weight[like]

    def _take_kinds(self, known: Tensor, share: Tensor, mean: Tensor, variance: Tensor) -> None:
        self.share.zero_()
        self.centre.zero_()
        self.variance.fill_(1)
        self.share[known] = share.to(self.share)
        self.centre[known] = ((mean - self.mean) / self.std).to(self.centre)
        self.variance[known] = (variance / self.std.square()).clamp_min(VARIANCE_FLOOR).to(self.variance)

    def normalised(self, latents: Float[Tensor, "... latent_channels"]) -> Float[Tensor, "... latent_channels"]:
        """Zero mean and unit variance over all sounds."""
        return (latents - self.mean) / self.std

    def gaussian(
        self,
        noisy: Float[Tensor, "batch latent_frames latent_channels"],
        time: Float[Tensor, " batch"],
        kind: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch latent_frames latent_channels"]:
        """E[z | z_t] where z is N(centre, variance) of its kind, which is a Wiener filter."""
        centre, variance, t = self.centre[kind][:, None], self.variance[kind][:, None], time[:, None, None]
        return centre + _wiener(variance, t) * (noisy - t * centre)

    def forward(
        self,
        noisy: Float[Tensor, "batch latent_frames latent_channels"],
        time: Float[Tensor, " batch"],
        kind: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch latent_frames latent_channels"]:
        """E[z | z_t], normalised as ``noisy`` is."""
        return self.gaussian(noisy, time, kind) + self.beyond_gaussian(noisy, time, kind)

    def beyond_gaussian(
        self,
        noisy: Float[Tensor, "batch latent_frames latent_channels"],
        time: Float[Tensor, " batch"],
        kind: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch latent_frames latent_channels"]:
        """What the network adds: an expectation of its own, and what other variances would make of ``noisy``."""
        centre, variance, t = self.centre[kind][:, None], self.variance[kind][:, None], time[:, None, None]
        local, own = (noisy - t * centre) @ self.local.mT, variance @ self.local.square().mT
        power = functional.avg_pool1d(local.square(), LOCAL_GROUP, ceil_mode=True)
        condition, hidden = self.condition(time, kind), self.into(noisy) + self.power((power + LEAST_POWER).log())
        for block in self.blocks:
            hidden = block(hidden, condition)
        hidden = self.norm(hidden)
        log_ratio = MOST_LOG_VARIANCE * (self.spread(hidden) / MOST_LOG_VARIANCE).tanh()
        gain = _wiener(own * log_ratio.exp(), t) - _wiener(own, t)
        return self.out(hidden) + (gain * local) @ self.local

    @torch.no_grad()
    def carry(
        self,
        noise: Float[Tensor, "batch latent_channels latent_frames"],
        kind: Int[Tensor, " batch"],
        *,
        latents: Float[Tensor, "batch latent_channels latent_frames"] | None = None,
        start: float = 0.0,
    ) -> Float[Tensor, "batch latent_channels latent_frames"]:
        """Latents of noise; or, with ``latents``, of those with noise on them, from the time ``start`` on
        (SDEdit, Meng et al., 2022).

        The less noise there is at the start, the smaller is the network's part: no noise, no change.
        """
        z, strength = noise.mT, min(1.0, (1 - start) / FULL_STRENGTH_NOISE)
        if latents is not None:
            z = (1 - start) * z + start * self.normalised(latents.mT)
        size = max(1, FRAMES_AT_ONCE // z.shape[1])
        parts = zip(z.split(size), kind.split(size), strict=True)
        carried = torch.cat([self._integrate(part, own, _times(start), strength) for part, own in parts])
        return (carried * self.std + self.mean).mT.contiguous()

    def _integrate(
        self,
        z: Float[Tensor, "batch latent_frames latent_channels"],
        kind: Int[Tensor, " batch"],
        times: Sequence[float],
        strength: float,
    ) -> Float[Tensor, "batch latent_frames latent_channels"]:
        """By Heun's method, as Karras et al. (2022) do: steps of one evaluation make sounds too much alike.

        The kind's Gaussian alone would move z along t centre + spread(t) x of constant x, so x is what is integrated:
        only what the network adds is left to small steps (as in Zhang & Chen, 2023, "Fast sampling of diffusion models
        with exponential integrator").
        """
        centre, variance = self.centre[kind][:, None], self.variance[kind][:, None]

        def spread(now: float) -> Tensor:
            return (now**2 * variance + (1 - now) ** 2).sqrt()

        def velocity(x: Tensor, now: float) -> Tensor:
            added = self.beyond_gaussian(now * centre + spread(now) * x, torch.full(kind.shape, now), kind)
            return GUIDANCE * strength * added / ((1 - now) * spread(now))

        x = (z - times[0] * centre) / spread(times[0])
        for now, then in pairwise(times):
            first = velocity(x, now)
            straight = x + (then - now) * first
            x = straight if then == times[-1] else x + (then - now) / 2 * (first + velocity(straight, then))
        return times[-1] * centre + spread(times[-1]) * x


class FlowBlock(nn.Module):
    """A residual block over three frames that lie ``dilation`` apart, scaled and shifted by the condition."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulation = nn.Linear(WIDTH, 3 * WIDTH)
        self.widen = nn.Linear(3 * WIDTH, 2 * WIDTH)
        self.narrow = nn.Linear(2 * WIDTH, WIDTH)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, hidden: Float[Tensor, "batch latent_frames width"], condition: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch latent_frames width"]:
        """What lies beyond the ends is zero."""
        scale, shift, gate = self.modulation(condition)[:, None].chunk(3, dim=2)
        middle = self.norm(hidden) * (1 + scale) + shift
        padded = functional.pad(middle, (0, 0, self.dilation, self.dilation))
        frames = hidden.shape[1]
        near = torch.cat([padded[:, :frames], middle, padded[:, 2 * self.dilation :]], dim=2)
        return hidden + (1 + gate) * self.narrow(functional.gelu(self.widen(near)))


class Condition(nn.Module):
    """Time and kind as one vector."""

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.of_time = nn.Linear(2 * TIME_FREQUENCIES, WIDTH)
        self.of_kind = nn.Embedding(kinds, WIDTH)
        self.both = nn.Linear(WIDTH, WIDTH)
        nn.init.normal_(self.of_kind.weight, std=0.3)

    def forward(self, time: Float[Tensor, " batch"], kind: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Sines and cosines of time at frequencies from 1/2 to 500, as in Vaswani et al. (2017)."""
        frequencies = torch.logspace(0, 3, TIME_FREQUENCIES, device=time.device)
        angle = math.pi * time[:, None] * frequencies
        of_time = functional.silu(self.of_time(torch.cat([angle.sin(), angle.cos()], dim=1)))
        return functional.silu(self.both(of_time + self.of_kind(kind)))


def _wiener(variance: Tensor, time: Tensor) -> Tensor:
    """How much of what noise at a time leaves of a Gaussian is expected to be sound."""
    return variance * time / (time.square() * variance + (1 - time).square())


def _moments(segments: Tensor, kind: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kinds that there are, the share that each has of all segments, and mean and variance of their channels."""
    known, counts = kind.unique(return_counts=True)
    own = (segments[kind == index].float() for index in known)
    moments = [torch.var_mean(some, dim=(0, 2), correction=0) for some in own]
    variance, mean = (torch.stack(part).double() for part in zip(*moments, strict=True))
    return known, counts.double() / len(kind), mean, variance


def _times(start: float) -> list[float]:
    """From ``start`` to 1, closer together near noise and near sound, where the paths bend most."""
    even = torch.linspace(math.asin(math.sqrt(start)), math.pi / 2, STEPS + 1, dtype=torch.float64)
    return even.sin().square().tolist()
