"""Weights that move in time, for a sound that goes from one recording to another while it plays."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.alignment import Number
from audiovae.errors import InputError


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
        weights = self.weights_at(shares, duration_seconds=duration_seconds)
        mean = float(torch.trapezoid(weights, shares))
        return min(max(mean, float(weights.min())), float(weights.max()))  # rounding must not make two of one
