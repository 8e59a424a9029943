"""Paths between latents: normalised, linear and spherical, two ends or many, fixed or moving in time.

What lies between two notes is one note, of a pitch and at a time between, and not both: recordings are first brought
to the pitch and time between them (``note_alignment``), frame by frame, and then mixed. That needs the model which made
the latents.
"""

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.alignment import (
    DEFAULT_CONFIG,
    Aligned,
    Fit,
    Number,
    level_over_time_db,
    mix_level_db,
    to_one_time_axis,
)
from audiovae.codec import Codec, load
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.latents import Latents
from audiovae.mixing import PathShape, between, mix
from audiovae.note_alignment import NoteAlignment
from audiovae.note_match import MatchBy, Means, NoteMatch, match_notes

logger = logging.getLogger(__name__)

Align = Literal["both", "pitch", "time", "none"]
"""pitch: tones glide, transposed to the pitch between; time: onsets move, to the time between; both: notes do both;
none: latents are mixed as they are, and notes crossfade."""


def interpolate(
    a: Latents,
    b: Latents,
    *,
    weight: Number = 0.5,
    path: PathShape = "normalised",
    fit: Fit = "stretch",
    align: Align = "both",
    codec: Codec | None = None,
) -> Latents:
    """The sound at ``weight`` between two: 0 has exactly ``a``'s latents, 1 exactly ``b``'s.

    Weights outside 0 to 1 extrapolate latents and pitch (not time, length and level). ``codec`` is the model which made
    them, the bundled one unless it is given. Raises InputError for recordings of different models and for what else
    can't be mixed.
    """
    mixed = blend([a, b], [1.0 - weight, weight], path=path, fit=fit, align=align, codec=codec)
    return replace(mixed, source=f"interpolate({a.source}, {b.source}, weight={weight:g}{_options(path, fit, align)})")


def blend(
    latents: Sequence[Latents],
    weights: Sequence[Number],
    *,
    path: PathShape = "normalised",
    fit: Fit = "stretch",
    align: Align = "both",
    codec: Codec | None = None,
) -> Latents:
    """A mix of any number of recordings, by weights that are normalised to sum 1.

    ``mixing`` says what the paths are; none depends on the order of the recordings, but the notes of more than two are
    matched with those of the first that has any weight, so that a blend of three jumps where that one's becomes 0.
    Raises InputError for weights that can't be normalised and for recordings that can't be mixed.
    """
    return next(blends(latents, [weights], path=path, fit=fit, align=align, codec=codec))


def blends(
    latents: Sequence[Latents],
    weights: Sequence[Sequence[Number]],
    *,
    path: PathShape = "normalised",
    fit: Fit = "stretch",
    align: Align = "both",
    codec: Codec | None = None,
) -> Iterator[Latents]:
    """``blend`` by each of the weights: the steps of a path; notes are compared once for each set of recordings."""
    _refuse_unknown(path, fit, align)
    codec, matched, notes = _codec_of(latents, codec, align), None, None
    for shares in (_normalised(one, len(latents)) for one in weights):
        aligned = to_one_time_axis(latents, shares, fit=fit, config=_config_of(codec))
        used = [index for index, share in enumerate(shares) if share != 0]
        means, used_shares = aligned.means[used], [shares[index] for index in used]
        if codec and align != "none" and len(used) > 1:
            if matched is None or matched[0] != used:
                matched, notes = (used, _match(latents, used, fit, align, codec)), None
            if notes is None or not _same(notes.means, means):
                notes = _alignment(codec, means, matched[1], aligned)
            means = notes.at(torch.tensor(used_shares)[:, None].expand(-1, means.shape[-1]))
        made_of = ", ".join(f"{one.source}: {share:g}" for one, share in zip(latents, shares, strict=True))
        yield Latents(
            mean=mix(means, used_shares, path),
            logvar=None,
            source=f"blend({made_of}{_options(path, fit, align)})",
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
    path: PathShape = "normalised",
    fit: Fit = "stretch",
    align: Align = "both",
    codec: Codec | None = None,
) -> Latents:
    """One sound that moves between two in time; a constant curve gives what ``interpolate`` gives.

    The first latent frame lies at the curve's start and the last at its end. Length (with "stretch") and level
    are those of the curve's mean weight, for a curve in seconds over the longer recording: one sound has one
    level, so where the two differ it doesn't follow the curve. Raises InputError like ``interpolate``.
    """
    mean_weight = curve.mean_weight(max(a.duration_seconds, b.duration_seconds))
    shares = [1.0 - mean_weight, mean_weight]
    _refuse_unknown(path, fit, align)
    codec = _codec_of([a, b], codec, align)
    aligned = to_one_time_axis([a, b], shares, fit=fit, config=_config_of(codec))
    means = aligned.means
    positions = torch.linspace(0, 1, means.shape[-1], dtype=torch.float64)
    duration_seconds = aligned.duration_seconds
    if curve.in_seconds and curve.times[-1] > duration_seconds:
        logger.warning(f"curve {curve}: the sound ends before it, after {duration_seconds:.2f} s")
    weights = curve.weights_at(positions, duration_seconds=duration_seconds)
    if codec and align != "none":
        match = _match([a, b], [0, 1], fit, align, codec)
        means = _alignment(codec, means, match, aligned).at(torch.stack([1 - weights, weights]))
    return Latents(
        mean=between(means[0], means[1], weights, path),
        logvar=None,
        source=f"interpolate({a.source}, {b.source}, curve={curve}{_options(path, fit, align)})",
        sample_rate=aligned.sample_rate,
        samples=aligned.samples,
        level_db=level_over_time_db([a.level_db, b.level_db], shares),
        checkpoint=a.checkpoint,
    )


def steps(count: int) -> list[float]:
    """``count`` weights from 0 to 1 at equal distances, both ends included. Raises InputError below 2."""
    if count < 2:
        raise InputError(f"steps {count}: a path has at least 2, its two ends")
    return [index / (count - 1) for index in range(count)]


def _normalised(weights: Sequence[Number], count: int) -> list[float]:
    text = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise InputError(f"weights {text}: {len(weights)} for {count} recordings")
    total = math.fsum(weights) if all(math.isfinite(weight) for weight in weights) else math.nan
    # 0.1 + 0.2 - 0.3 is not quite 0 in floats.
    if not math.isfinite(total) or abs(total) <= 1e-9 * math.fsum(map(abs, weights)):
        raise InputError(f"weights {text}: must be finite and must not sum to 0")
    return [weight / total for weight in weights]


def _options(path: PathShape, fit: Fit, align: Align) -> str:
    """What differs from the usual, for the provenance."""
    chosen = {"path": (path, "normalised"), "fit": (fit, "stretch"), "align": (align, "both")}
    return "".join(f", {name}={value}" for name, (value, usual) in chosen.items() if value != usual)


def _refuse_unknown(path: str, fit: str, align: str) -> None:
    for name, value, choices in (("path", path, PathShape), ("fit", fit, Fit), ("align", align, Align)):
        if value not in get_args(choices):
            raise InputError(f"{name} {value}: must be one of {', '.join(get_args(choices))}")


def _codec_of(latents: Sequence[Latents], codec: Codec | None, align: Align) -> Codec | None:
    """The model which made the latents, as far as it is needed. Raises InputError if it is another one."""
    if codec is None and align != "none":
        codec = _bundled()
    for one in latents:
        if codec and one.checkpoint != codec.fingerprint:
            raise InputError(
                f"{one.source or 'latents'}: encoded by checkpoint {one.checkpoint}, but the model given, or else the "
                f"bundled one, is {codec.fingerprint} ({codec.checkpoint.source})"
            )
    return codec


def _match(latents: Sequence[Latents], used: Sequence[int], fit: Fit, align: MatchBy, codec: Codec) -> NoteMatch:
    """Of those used, at the mean of their lengths: each step of a path matches the same notes."""
    shares = [1 / len(used) if index in used else 0.0 for index in range(len(latents))]
    aligned = to_one_time_axis(latents, shares, fit=fit, config=codec.config)
    return match_notes(codec, aligned.means[used], seconds=aligned.duration_seconds, by=align)


def _alignment(codec: Codec, means: Means, match: NoteMatch, aligned: Aligned) -> NoteAlignment:
    frames = codec.config.model.time_stride * means.shape[-1]
    return NoteAlignment(codec, means, match.stretched(frames, aligned.duration_seconds))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _config_of(codec: Codec | None) -> Config:
    return codec.config if codec else DEFAULT_CONFIG


@functools.cache
def _bundled() -> Codec:
    """Loaded once, when it is first needed."""
    return load()
