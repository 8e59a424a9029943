"""Paths between latents: straight and spherical, two ends or many, fixed or moving in time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.alignment import (
    DEFAULT_CONFIG,
    Fit,
    Number,
    align,
    check_matching,
    level_over_time_db,
    match_channels,
    mix_level_db,
    nearest_samples,
)
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.latents import Latents

PathShape = Literal["linear", "spherical"]
"""linear: the straight line; spherical: along the great circle, which keeps the latents' length."""


def interpolate(
    a: Latents,
    b: Latents,
    *,
    weight: Number = 0.5,
    path: PathShape = "linear",
    fit: Fit = "stretch",
    config: Config = DEFAULT_CONFIG,
) -> Latents:
    """The sound at ``weight`` between two: 0 has exactly ``a``'s latents, 1 exactly ``b``'s.

    Weights outside 0 to 1 extrapolate the latents (not length and level). ``config`` is that of the model which
    made them. Raises InputError for recordings of different models and for what else can't be mixed.
    """
    mixed = blend([a, b], [1.0 - weight, weight], path=path, fit=fit, config=config)
    return replace(mixed, source=f"interpolate({a.source}, {b.source}, weight={weight:g}{_options(path, fit)})")


def blend(
    latents: Sequence[Latents],
    weights: Sequence[Number],
    *,
    path: PathShape = "linear",
    fit: Fit = "stretch",
    config: Config = DEFAULT_CONFIG,
) -> Latents:
    """A mix of any number of recordings, by weights that are normalised to sum 1.

    Spherical, of two: ``slerp``; of more: ``spherical_mean``, which doesn't depend on their order.
    Raises InputError for weights that can't be normalised and for recordings that can't be mixed.
    """
    shares = _normalised(weights, len(latents))
    aligned = align(latents, shares, fit=fit, config=config)
    made_of = ", ".join(f"{one.source}: {share:g}" for one, share in zip(latents, shares, strict=True))
    return Latents(
        mean=_mix(aligned.means, shares, path),
        logvar=None,
        source=f"blend({made_of}{_options(path, fit)})",
        sample_rate=aligned.sample_rate,
        samples=aligned.samples,
        level_db=mix_level_db([one.level_db for one in latents], shares),
        checkpoint=latents[0].checkpoint,
    )


@dataclass(frozen=True)
class Curve:
    """Weight over time: straight between breakpoints, constant before the first and after the last.

    Times are shares of the result's duration, 0 to 1, or seconds; weights are 0 to 1.
    Raises InputError that names the curve and the reason.
    """

    times: tuple[Number, ...]
    weights: tuple[Number, ...]
    in_seconds: bool = False

    def __post_init__(self) -> None:
        unit_end = math.inf if self.in_seconds else 1
        if not self.times or len(self.times) != len(self.weights):
            raise InputError(f"curve {self}: wants one weight for each time, and at least one")
        if not all(math.isfinite(time) and 0 <= time <= unit_end for time in self.times):
            unit = "seconds from 0 on" if self.in_seconds else "shares from 0 to 1 (write 2.5s for seconds)"
            raise InputError(f"curve {self}: times must be {unit}")
        if any(late <= early for early, late in zip(self.times, self.times[1:], strict=False)):
            raise InputError(f"curve {self}: times must increase")
        if not all(0 <= weight <= 1 for weight in self.weights):
            raise InputError(f"curve {self}: weights must be 0 to 1")

    def __str__(self) -> str:
        unit = "s" if self.in_seconds else ""
        return ",".join(f"{time:g}{unit}:{weight:g}" for time, weight in zip(self.times, self.weights, strict=False))

    @classmethod
    def parse(cls, text: str) -> "Curve":
        """Reads ``time:weight,time:weight``, as in "0:0,1:1" (shares) or "0s:0,2.5s:1" (seconds)."""
        times, weights, units = [], [], set()
        for point in text.split(","):
            time, _, weight = point.strip().partition(":")
            units.add(time.strip().endswith("s"))
            try:
                times.append(float(time.strip().removesuffix("s")))
                weights.append(float(weight))
            except ValueError as error:
                raise InputError(f"curve {text}: {point.strip()!r} is not time:weight, as in 0:0,1:1") from error
        if len(units) > 1:
            raise InputError(f"curve {text}: times must be all shares or all seconds")
        return cls(tuple(times), tuple(weights), in_seconds=units.pop())

    def weights_at(
        self, shares: Float[Tensor, " positions"], *, duration_seconds: float
    ) -> Float[Tensor, " positions"]:
        """Weights at shares, 0 to 1, of a sound of this duration."""
        times = shares * duration_seconds if self.in_seconds else shares
        return torch.from_numpy(np.interp(times.numpy(), self.times, self.weights))

    def mean_weight(self, duration_seconds: float) -> float:
        """The weight's mean over a sound of this duration."""
        unit = duration_seconds if self.in_seconds else 1.0
        corners = {time / unit for time in self.times if 0 < time < unit}
        shares = torch.tensor(sorted({0.0, 1.0} | corners), dtype=torch.float64)
        return float(torch.trapezoid(self.weights_at(shares, duration_seconds=duration_seconds), shares))


def interpolate_curve(
    a: Latents,
    b: Latents,
    curve: Curve,
    *,
    path: PathShape = "linear",
    fit: Fit = "stretch",
    config: Config = DEFAULT_CONFIG,
) -> Latents:
    """One sound that moves between two in time; a constant curve gives what ``interpolate`` gives.

    The first latent frame lies at the curve's start and the last at its end. Length (with "stretch") and level
    are those of the curve's mean weight, for a curve in seconds over the longer recording: one sound has one
    level, so where the two differ it doesn't follow the curve. Raises InputError like ``interpolate``.
    """
    mean_weight = curve.mean_weight(max(a.duration_seconds, b.duration_seconds))
    shares = [1.0 - mean_weight, mean_weight]
    aligned = align([a, b], shares, fit=fit, config=config)
    positions = torch.linspace(0, 1, aligned.means.shape[-1], dtype=torch.float64)
    weights = curve.weights_at(positions, duration_seconds=aligned.samples / aligned.sample_rate)
    return Latents(
        mean=_between(aligned.means[0], aligned.means[1], weights, path),
        logvar=None,
        source=f"interpolate({a.source}, {b.source}, curve={curve}{_options(path, fit)})",
        sample_rate=aligned.sample_rate,
        samples=aligned.samples,
        level_db=level_over_time_db([a.level_db, b.level_db], shares),
        checkpoint=a.checkpoint,
    )


def join(latents: Sequence[Latents], *, config: Config = DEFAULT_CONFIG) -> Latents:
    """Recordings one after the other without gaps, at the highest sample rate among them.

    Each but the last loses its partial last latent frame, which is mostly padding. The level is the mean in dB
    by duration. Raises InputError for recordings of different models or channels.
    """
    check_matching(latents, config)
    parts = match_channels(latents)
    parts = [part[..., : max(1, part.shape[2] - 1)] for part in parts[:-1]] + parts[-1:]
    mean = torch.cat(parts, dim=2)
    sample_rate = max(one.sample_rate for one in latents)
    seconds = sum(part.shape[2] for part in parts[:-1]) / config.latent_rate + latents[-1].duration_seconds
    levels, durations = [one.level_db for one in latents], [one.duration_seconds for one in latents]
    return Latents(
        mean=mean,
        logvar=None,
        source=f"join({', '.join(one.source for one in latents)})",
        sample_rate=sample_rate,
        samples=nearest_samples(seconds * sample_rate, mean.shape[2], sample_rate, config),
        level_db=level_over_time_db(levels, durations),
        checkpoint=latents[0].checkpoint,
    )


def steps(count: int) -> list[float]:
    """``count`` weights from 0 to 1 at equal distances, both ends included. Raises InputError below 2."""
    if count < 2:
        raise InputError(f"steps {count}: a path has at least 2, its two ends")
    return [index / (count - 1) for index in range(count)]


def lerp(
    a: Float[Tensor, "*batch latent_channels latent_frames"],
    b: Float[Tensor, "*batch latent_channels latent_frames"],
    weight: Number | Float[Tensor, " latent_frames"],
) -> Float[Tensor, "*batch latent_channels latent_frames"]:
    """The straight line from ``a`` (weight 0, bit for bit) to ``b`` (weight 1), one weight or one for each frame."""
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device)
    return _exact_ends(a, b, weight, torch.lerp(a, b, weight))


def slerp(
    a: Float[Tensor, "*batch latent_channels latent_frames"],
    b: Float[Tensor, "*batch latent_channels latent_frames"],
    weight: Number | Float[Tensor, " latent_frames"],
) -> Float[Tensor, "*batch latent_channels latent_frames"]:
    """The great circle from ``a`` to ``b``, frame by frame (Shoemake, 1985, Animating rotation with quaternions).

    For unit vectors u, v at angle w: sin((1 - t) w) / sin(w) u + sin(t w) / sin(w) v, times the norm, which runs
    straight from |a| to |b| and never below 0. Frames without a direction between them (parallel, opposite, zero
    or NaN) take the straight line. Ends and weights as for ``lerp``.
    """
    t = torch.as_tensor(weight, dtype=torch.float64, device=a.device)
    norm_a, u = _norm_and_direction(a)
    norm_b, v = _norm_and_direction(b)
    # Kahan's angle: exact near 0 and pi, where acos of the cosine is not.
    angle = 2 * torch.atan2((u - v).norm(dim=-2, keepdim=True), (u + v).norm(dim=-2, keepdim=True))
    sine = angle.sin()
    direction = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / sine
    norm = torch.lerp(norm_a, norm_b, t).clamp_min(0)
    usable = (sine > 1e-4) & (norm_a > 0) & (norm_b > 0)
    curved = torch.where(usable, norm * direction, lerp(a, b, weight).double()).to(a.dtype)
    return _exact_ends(a, b, t, curved)


def spherical_mean(
    points: Float[Tensor, "recordings *batch latent_channels latent_frames"], shares: Sequence[Number]
) -> Float[Tensor, "*batch latent_channels latent_frames"]:
    """The mean on the sphere, frame by frame, by shares that sum to 1; of two points it is their ``slerp``.

    It is the direction m whose great-circle steps to all points balance, found by walking along their mean, as in
    Buss & Fillmore (2001), Spherical averages and applications to spherical splines; times the mean norm. Frames
    without such a direction (zero, NaN or opposite points) take the straight mean.
    """
    share = torch.tensor(shares, dtype=torch.float64, device=points.device).view(-1, *[1] * (points.ndim - 1))
    norms, directions = _norm_and_direction(points)
    resultant = (share * directions).sum(0)
    middle = resultant / resultant.norm(dim=-2, keepdim=True)
    for _ in range(40):  # of 16 points at right angles, each step leaves two thirds of the error
        cosine = (directions * middle).sum(-2, keepdim=True)
        away = directions - cosine * middle
        sine = away.norm(dim=-2, keepdim=True)
        step = (share * away * torch.atan2(sine, cosine) / sine.clamp_min(1e-12)).sum(0)
        length = step.norm(dim=-2, keepdim=True)
        middle = length.cos() * middle + torch.sinc(length / math.pi) * step
    usable = (resultant.norm(dim=-2, keepdim=True) > 1e-4) & (norms > 0).all(0)
    mean_norm = (share * norms).sum(0).clamp_min(0)
    return torch.where(usable, mean_norm * middle, (share * points).sum(0)).to(points.dtype)


def _norm_and_direction(x: Float[Tensor, "..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    x = x.double()
    norm = x.norm(dim=-2, keepdim=True)
    return norm, x / norm.clamp_min(1e-300)


def _exact_ends(a: Tensor, b: Tensor, weight: Tensor, between: Tensor) -> Tensor:
    return torch.where(weight == 0, a, torch.where(weight == 1, b, between))


def _between(a: Tensor, b: Tensor, weight: Number | Tensor, path: PathShape) -> Tensor:
    return (slerp if path == "spherical" else lerp)(a, b, weight)


def _mix(
    means: Float[Tensor, "recordings channels latent_channels latent_frames"], shares: Sequence[Number], path: PathShape
) -> Float[Tensor, "channels latent_channels latent_frames"]:
    used = [index for index, share in enumerate(shares) if share != 0]
    if len(used) == 1:
        return means[used[0]].clone()
    if len(used) == 2:
        return _between(means[used[0]], means[used[1]], shares[used[1]], path)
    if path == "spherical":
        return spherical_mean(means[used], [shares[index] for index in used])
    return torch.tensordot(torch.tensor(shares, dtype=means.dtype, device=means.device), means, dims=1)


def _normalised(weights: Sequence[Number], count: int) -> list[float]:
    text = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise InputError(f"weights {text}: {len(weights)} for {count} recordings")
    total = math.fsum(weights) if all(math.isfinite(weight) for weight in weights) else math.nan
    if not math.isfinite(total) or total == 0:
        raise InputError(f"weights {text}: must be finite and must not sum to 0")
    return [weight / total for weight in weights]


def _options(path: PathShape, fit: Fit) -> str:
    """What differs from the usual, for the provenance."""
    return f"{f', path={path}' if path != 'linear' else ''}{f', fit={fit}' if fit != 'stretch' else ''}"
