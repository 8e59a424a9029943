"""Mixes of latents of one shape, frame by frame: along straight lines and along great circles.

Frames of unrelated sounds are nearly at right angles, as vectors of many channels are, so their mean is three tenths
shorter than they are: nearer to the mean of all sounds, which is dull and sounds like none of them (White, 2016,
"Sampling generative networks"). Paths other than the linear one keep the length, except for frames that point in
opposite directions.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.alignment import Number

PathShape = Literal["normalised", "linear", "spherical"]
"""normalised: the straight line, scaled so that latents keep their length; linear: the straight line as it is;
spherical: the great circle, along which directions turn evenly."""


def mix(
    means: Float[Tensor, "recordings channels latent_channels latent_frames"], shares: Sequence[Number], path: PathShape
) -> Float[Tensor, "channels latent_channels latent_frames"]:
    """The mix of recordings by shares that sum to 1; one that has all of it comes out bit for bit."""
    used = [index for index, share in enumerate(shares) if share != 0]
    if len(used) == 1:
        return means[used[0]].clone()
    if len(used) == 2:
        return between(means[used[0]], means[used[1]], shares[used[1]], path)
    means, shares = means[used], [shares[index] for index in used]
    if path == "spherical":
        return spherical_mean(means, shares)
    share = torch.tensor(shares, dtype=means.dtype, device=means.device)
    return nlerp(means, share) if path == "normalised" else torch.tensordot(share, means, dims=1)


def between(
    a: Float[Tensor, "*batch latent_channels latent_frames"],
    b: Float[Tensor, "*batch latent_channels latent_frames"],
    weight: Number | Float[Tensor, " latent_frames"],
    path: PathShape,
) -> Float[Tensor, "*batch latent_channels latent_frames"]:
    """``lerp``, ``slerp`` or ``nlerp``, with exact ends."""
    if path != "normalised":
        return (slerp if path == "spherical" else lerp)(a, b, weight)
    weight = torch.as_tensor(weight, dtype=a.dtype, device=a.device).expand(a.shape[-1])
    return _exact_ends(a, b, weight, nlerp(torch.stack([a, b]), torch.stack([1 - weight, weight])))


def nlerp(
    points: Float[Tensor, "recordings *batch latent_channels latent_frames"],
    shares: Float[Tensor, " recordings"] | Float[Tensor, "recordings latent_frames"],
) -> Float[Tensor, "*batch latent_channels latent_frames"]:
    """The mean by shares that sum to 1, frame by frame, made as long as the mean of the lengths.

    It is never made shorter, and longer by no more than unrelated frames call for, which are at right angles: opposite
    ones have no direction between them, and what they leave is not blown up. Beyond two ends it is the straight line.
    """
    share = shares.double().reshape(len(points), *[1] * (points.ndim - 2), -1)
    parts = share * points.double()
    mean, lengths = parts.sum(0), points.double().norm(dim=-2, keepdim=True)
    found = torch.maximum(mean.norm(dim=-2, keepdim=True), parts.norm(dim=-2, keepdim=True).norm(dim=0))
    longer = torch.where(found > 0, (share * lengths).sum(0) / found, 1.0).clamp_min(1)
    return (longer * mean).to(points.dtype)


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
