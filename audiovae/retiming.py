"""Sounds at other times: frames read where they lie on another sound's time axis, or on one between."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BISECTIONS = 40
NEXT_TO_FRAMES = 1e-3


def common_times(lags: Float[Tensor, "others frames"]) -> Float[Tensor, "recordings frames"]:
    """For each frame of the time axis between all recordings, the frame of each recording that belongs there.

    ``lags`` are those of the other recordings to the first (``lag.best_lags``). The common axis is the mean of all.
    """
    frames = torch.arange(lags.shape[1], dtype=torch.float64)
    if len(lags) == 1:
        return torch.cat([frames - lags / 2, frames + lags / 2])
    # Of each pair on the axis half way between, then of each on the first one's axis, then of all on their mean's.
    first, others = frames - lags.double() / 2, frames + lags.double() / 2
    rows = [frames, *(_inverse(one, other) for one, other in zip(first, others, strict=True))]
    mean = torch.stack(rows).mean(0)
    return torch.stack([_inverse(mean, row) for row in rows])


def common_places(
    times: Float[Tensor, "recordings frames"], weights: Float[Tensor, "recordings frames"]
) -> Float[Tensor, " frames"]:
    """For each frame of the result, the frame of the common axis that belongs there.

    It is the one at which the weighted mean of the recordings' times is that frame, found by bisection.

    Weights sum to 1 and may change in time; those below 0 count as 0, since beyond the recordings times would not stay
    in order. What would go back in time stands still.
    """
    share = weights.double().clamp_min(0)
    share = share / share.sum(0)
    frames = torch.arange(times.shape[1], dtype=torch.float64)
    low, high = torch.zeros_like(frames), torch.full_like(frames, times.shape[1] - 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_before = (share * read(times, middle)).sum(0) < frames
        low, high = torch.where(is_before, middle, low), torch.where(is_before, high, middle)
    return high.cummax(0).values


def settled(places: Float[Tensor, "*batch places"]) -> Float[Tensor, "*batch places"]:
    """Places, those very near to a whole frame put on it, so that what isn't moved is read bit for bit."""
    nearest = places.round()
    return torch.where((places - nearest).abs() < NEXT_TO_FRAMES, nearest, places)


def read(values: Float[Tensor, "*batch frames"], places: Float[Tensor, " places"]) -> Float[Tensor, "*batch places"]:
    """Values at places between frames, on the line from one to the next; beyond the ends, those of the ends."""
    last = values.shape[-1] - 1
    place = places.clamp(0, last)
    left = place.long()
    share = (place - left).to(values)
    left = left.to(values.device)
    return torch.lerp(values[..., left], values[..., (left + 1).clamp(max=last)], share)


def stretched_places(frames: int, ratio: float) -> Float[Tensor, " frames"]:
    """Where the middles of this many frames lie in a sound ``ratio`` times as long."""
    return stretched(torch.arange(frames, dtype=torch.float64), ratio)


def stretched(places: Float[Tensor, "*batch places"], ratio: float) -> Float[Tensor, "*batch places"]:
    """Where the middles of frames lie in a sound ``ratio`` times as long: (k + 1/2) ratio - 1/2."""
    return (places + 0.5) * ratio - 0.5


def _inverse(places: Float[Tensor, " frames"], values: Float[Tensor, " frames"]) -> Float[Tensor, " frames"]:
    """What ``values`` are where ``places``, which rise, reach each frame."""
    return torch.from_numpy(np.interp(np.arange(len(places)), places.numpy(), values.numpy()))
