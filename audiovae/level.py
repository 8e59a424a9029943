"""How loud a recording is: the one number by which recordings are matched before the model sees them."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PIECE_SECONDS = 4096 / 44_100
"""Of sound that count as a whole or not at all: as long at every sample rate, lest the level depend on that."""
_AT_ONCE = 1 << 16
"""Samples that are squared at a time: they stay in the processor's cache."""
ABSOLUTE_GATE_DB = -70.0
RELATIVE_GATE_DB = -20.0
SILENT_BELOW_DB = -200.0
"""Quieter than any file of integers can be: the gain that brought it to the model's level would be beyond floats."""
FEWEST_PIECES, LEAST_OFFSET = 8, 0.01
"""Pieces that a constant offset must be seen in, and the least share of a recording's RMS that counts as one."""


class LevelMeter:
    """Gated RMS level of a recording that arrives in blocks of any length.

    Gating as in ITU-R BS.1770, without its ear filter: pieces of 93 ms below -70 dBFS, and then those 20 dB below the
    mean of the rest, don't count, so that pauses don't make a recording seem quiet. Nor does a constant offset, which
    nobody hears.
    """

    def __init__(self, rate: float | int) -> None:
        """``rate`` is how many samples there are a second; or, for ``add_powers``, powers."""
        self._piece = max(1, round(PIECE_SECONDS * rate))
        # Plain numbers: small tensors that stay, among large ones that go, leave holes in memory, a gigabyte an hour.
        self._pieces: list[list[float]] = []
        self._rest: Tensor | None = None

    def add(self, waveform: Float[Tensor, "channels samples"]) -> None:
        """Takes the next samples of the recording."""
        for part in waveform.split(_AT_ONCE, dim=1):
            # In double precision: float files may hold anything, and the square of 1e30 would be infinite.
            samples = part.double()
            self._add(torch.cat([samples.square().mean(0, keepdim=True), samples]))

    def add_powers(self, power: Float[Tensor, " places"]) -> None:
        """Takes the next powers, where they are known without the samples."""
        self._add(power.double()[None])

    def _add(self, rows: Float[Tensor, "rows places"]) -> None:
        """Power, and the samples of each channel: what is kept of each piece is their means."""
        if self._rest is not None:
            rows = torch.cat([self._rest, rows], dim=1)
        whole = rows.shape[1] // self._piece * self._piece
        self._pieces += rows[:, :whole].unflatten(1, (-1, self._piece)).mean(2).mT.tolist()
        self._rest = rows[:, whole:].clone()

    def _means(self) -> Float[Tensor, "rows pieces"]:
        rest = [self._rest.mean(1).tolist()] if self._rest is not None and self._rest.shape[1] else []
        pieces = torch.tensor(self._pieces + rest, dtype=torch.float64)
        return pieces.mT if len(pieces) else torch.zeros(1, 0, dtype=torch.float64)

    def _sizes(self) -> Float[Tensor, " pieces"]:
        """How much each piece counts: 1, or less for the last one if it is shorter."""
        rest = [self._rest.shape[1] / self._piece] if self._rest is not None and self._rest.shape[1] else []
        return torch.tensor([1.0] * len(self._pieces) + rest, dtype=torch.float64)

    @property
    def offset(self) -> Float[Tensor, " channels"]:
        """The constant that each channel's samples lie around; 0 if it is small or can't be told.

        It is the median of the pieces' means, so silence, too, must lie there. The mean of these means must be off zero
        as well: a bass tone's pieces may lie far off, but on either side.
        """
        power, *means = self._means()
        if not means or len(power) < FEWEST_PIECES:
            return torch.zeros(len(means), dtype=torch.float64)
        of_pieces, least = torch.stack(means), LEAST_OFFSET * power.mean().sqrt()
        offset = of_pieces.median(dim=1).values
        return torch.where((offset.abs() < least) | (of_pieces.mean(1) * offset.sign() < least), 0.0, offset)

    @property
    def level_db(self) -> float:
        """Level so far in dBFS (a full-scale square wave has 0); -inf for silence."""
        power, *means = self._means()
        if (offset := self.offset).any():
            constant = offset[:, None] * (2 * torch.stack(means) - offset[:, None])
            # Where there was nothing but the constant, what is left is rounding.
            power = power - constant.mean(0)
            power = torch.where(power < 1e-12 * offset.square().mean(), 0.0, power)
        return gated_level_db(power, self._sizes())

    @property
    def loudest_db(self) -> float:
        """Level of the loudest piece so far in dBFS, with a constant offset if there is one; -inf for silence."""
        loudest = max(self._means()[0].tolist(), default=0.0)
        return 10 * math.log10(loudest) if loudest > 0 else -math.inf


def gated_level_db(power: Float[Tensor, " pieces"], count: Float[Tensor, " pieces"]) -> float:
    """Level in dBFS of pieces of these powers, each of which counts so many times; -inf for silence."""

    def mean(which: Bool[Tensor, " pieces"]) -> float:
        return float((power[which] * count[which]).sum() / count[which].sum())

    loud = power > 10 ** (ABSOLUTE_GATE_DB / 10)
    if not loud.any():
        loud = power > 10 ** (SILENT_BELOW_DB / 10)
    if not loud.any():
        return -math.inf
    return 10 * math.log10(mean(loud & (power >= mean(loud) * 10 ** (RELATIVE_GATE_DB / 10))))


def level_db(waveform: Float[Tensor, "channels samples"], sample_rate: int) -> float:
    """Gated RMS level of a whole recording in dBFS; -inf for silence. ``sample_rate`` in Hz."""
    meter = LevelMeter(sample_rate)
    meter.add(waveform)
    return meter.level_db
