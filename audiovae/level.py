"""How loud a recording is: the one number by which recordings are matched before the model sees them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

PIECE_SECONDS = 4096 / 44_100
"""Of sound, that counts as a whole or not at all: as long at every rate, or a recording's level would depend on it."""
_AT_ONCE = 1 << 16
"""Samples that are squared at a time: they stay in the processor's cache."""
ABSOLUTE_GATE_DB = -70.0
RELATIVE_GATE_DB = -20.0


class LevelMeter:
    """Gated RMS level of a recording that arrives in blocks of any length.

    Gating as in ITU-R BS.1770, without its ear filter: pieces of 93 ms below -70 dBFS, and then those 20 dB below the
    mean of the rest, don't count, so that pauses don't make a recording seem quiet.
    """

    def __init__(self, rate: float | int) -> None:
        """``rate`` is how many samples there are a second; or, for ``add_powers``, powers."""
        self._piece = max(1, round(PIECE_SECONDS * rate))
        self._powers: list[Tensor] = []
        self._rest: Tensor | None = None

    def add(self, waveform: Float[Tensor, "channels samples"]) -> None:
        """Takes the next samples of the recording."""
        for part in waveform.split(_AT_ONCE, dim=1):
            # In double precision: float files may hold anything, and the square of 1e30 would be infinite.
            self.add_powers(part.double().square().mean(0))

    def add_powers(self, power: Float[Tensor, " places"]) -> None:
        """Takes the next powers, where they are known without the samples."""
        if self._rest is not None:
            power = torch.cat([self._rest, power])
        whole = len(power) // self._piece * self._piece
        self._powers.append(power[:whole].reshape(-1, self._piece).mean(1))
        self._rest = power[whole:].clone()

    @property
    def level_db(self) -> float:
        """Level so far in dBFS (a full-scale square wave has 0); -inf for silence."""
        rest = [self._rest.mean()[None]] if self._rest is not None and len(self._rest) else []
        power = torch.cat([*self._powers, *rest]).double() if self._powers or rest else torch.zeros(0)
        loud = power[power > 10 ** (ABSOLUTE_GATE_DB / 10)]
        if not len(loud):
            loud = power[power > 0]
        if not len(loud):
            return -math.inf
        loud = loud[loud >= loud.mean() * 10 ** (RELATIVE_GATE_DB / 10)]
        return 10 * math.log10(float(loud.mean()))


def level_db(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """Gated RMS level of a whole recording in dBFS; -inf for silence. ``sample_rate`` in Hz."""
    meter = LevelMeter(sample_rate)
    meter.add(waveform)
    return meter.level_db
