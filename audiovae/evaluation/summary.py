"""Many values in two numbers: their mean, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """A mean and half the width of its 95 % confidence interval; NaN where there is too little to say."""

    mean: float
    interval: float
    count: int

    def text(self, digits: int = 2) -> str:
        """As in ``2.43 ± 0.17``."""
        if math.isnan(self.mean):
            return "not measured"
        spread = "" if math.isnan(self.interval) else f" ± {self.interval:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


def summarise(values: Sequence[float]) -> Summary:
    """Of independent values (one a clip), by Student's t; values that are NaN were not measured and don't count."""
    from scipy.special import stdtrit

    measured = np.array([value for value in values if not math.isnan(value)])
    count = len(measured)
    if count < 2:
        return Summary(float(measured[0]) if count else math.nan, math.nan, count)
    interval = stdtrit(count - 1, 0.975) * measured.std(ddof=1) / math.sqrt(count)
    return Summary(float(measured.mean()), float(interval), count)
