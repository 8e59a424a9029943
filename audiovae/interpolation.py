"""Paths between latents: normalised, linear and spherical, two ends or many, fixed or moving in time.

What lies between two notes is one note, of a pitch and at a time between, and not both: recordings are first brought
to the pitch and time between them (``note_alignment``), frame by frame, and then mixed. That needs the model which made
the latents.
"""

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

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
from audiovae.curve import Curve
from audiovae.errors import InputError
from audiovae.latents import Latents
from audiovae.mix_level import MixLevel
from audiovae.mixing import PathShape, between, mix
from audiovae.note_alignment import NoteAlignment
from audiovae.note_match import MatchBy, Means, NoteMatch, match_notes

logger = logging.getLogger(__name__)

Align = Literal["both", "pitch", "time", "none"]
"""pitch: tones glide, transposed to the pitch between; time: onsets move, to the time between; both: notes do both;
none: nothing is matched, and notes crossfade. Without a codec, which is only possible then, recordings of other
lengths are stretched as latents, which smears attacks."""


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

    Weights outside 0 to 1 extrapolate latents and pitch (not time, length and level). The level is between the ends'
    or, if moments would be far louder than theirs, lower. ``codec`` is the model which made them, the bundled one
    unless it is given. Raises InputError for recordings of different models and for what else can't be mixed.
    """
    mixed = blend([a, b], [1.0 - weight, weight], path=path, fit=fit, align=align, codec=codec)
    return replace(mixed, source=f"interpolate({a.source}, {b.source}, weight={weight:g}{_options(path, fit, align)})")


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
    """One sound that moves between two in time.

    A constant curve gives what ``interpolate`` gives, except that a silent recording doesn't lower the level.

    The first latent frame lies at the curve's start and the last at its end. Length (with "stretch") and level
    are those of the curve's mean weight, for a curve in seconds over the longer recording: one sound has one
    level, so where the two differ it doesn't follow the curve. If moments would be far louder than those of the
    louder end that it comes to, the level is lower. Raises InputError like ``interpolate``.
    """
    return Morph([a, b], fit=fit, align=align, codec=codec).along(curve, path=path)


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

    ``mixing`` says what the paths are. None depends on the order of the recordings, but notes are matched with those of
    the first recording that has any weight, so a blend of three jumps where that weight becomes 0. It also jumps a
    little where another weight does: only between two recordings, voices move by intervals of their own. Raises
    InputError for weights that can't be normalised and for recordings that can't be mixed.
    """
    return Morph(latents, fit=fit, align=align, codec=codec).at(weights, path=path)


class Morph:
    """Recordings that many sounds are made of, as for a path or a slider; their notes are matched only once.

    Options and errors are those of ``blend``, and so are the sounds.
    """

    def __init__(
        self,
        latents: Sequence[Latents],
        *,
        fit: Fit = "stretch",
        align: Align = "both",
        codec: Codec | None = None,
    ) -> None:
        _refuse_unknown("fit", fit, Fit)
        _refuse_unknown("align", align, Align)
        self.latents = list(latents)
        self._fit: Fit = fit
        self._align: Align = align
        self._codec = _codec_of(latents, codec, align)
        self._level = MixLevel(self.latents, self._codec, fit)
        self._matched: tuple[list[int], NoteMatch] | None = None
        """The recordings whose notes are matched, and how."""
        self._notes: NoteAlignment | None = None
        self._last: tuple[list[float], Aligned, Means] | None = None
        """What the last shares made of the recordings: the same for every shape of path."""

    def at(self, weights: Sequence[Number], *, path: PathShape = "normalised") -> Latents:
        """The mix by these weights, one of each recording, which are normalised to sum 1."""
        _refuse_unknown("path", path, PathShape)
        shares = _normalised(weights, len(self.latents))
        if self._last is None or self._last[0] != shares:
            self._last = shares, *self._brought_together(shares)
        _, aligned, means = self._last
        made_of = ", ".join(f"{one.source}: {share:g}" for one, share in zip(self.latents, shares, strict=True))
        mixed = Latents(
            mean=mix(means, [share for share in shares if share != 0], path),
            logvar=None,
            source=f"blend({made_of}{_options(path, self._fit, self._align)})",
            sample_rate=aligned.sample_rate,
            samples=aligned.samples,
            level_db=mix_level_db(self._level.levels_db, shares),
            checkpoint=self.latents[0].checkpoint,
        )
        return self._level.not_too_loud(mixed, shares) if len(means) > 1 else mixed

    def along(self, curve: Curve, *, path: PathShape = "normalised") -> Latents:
        """The sound that moves from the first to the second recording as the curve says (``interpolate_curve``)."""
        _refuse_unknown("path", path, PathShape)
        if len(self.latents) != 2:
            raise InputError(f"curve {curve}: goes between two recordings, not {len(self.latents)}")
        a, b = self.latents
        mean_weight = curve.mean_weight(max(a.duration_seconds, b.duration_seconds))
        shares = [1.0 - mean_weight, mean_weight]
        aligned = to_one_time_axis([a, b], shares, fit=self._fit, config=_config_of(self._codec))
        duration_seconds = aligned.duration_seconds
        if curve.in_seconds and curve.times[-1] > duration_seconds:
            logger.warning(f"curve {curve}: the sound ends before it, after {duration_seconds:.2f} s")
        positions = torch.linspace(0, 1, aligned.latent_frames, dtype=torch.float64)
        weights = curve.weights_at(positions, duration_seconds=duration_seconds)
        means = self._moved([0, 1], aligned, torch.stack([1 - weights, weights]))
        mixed = Latents(
            mean=between(means[0], means[1], weights, path),
            logvar=None,
            source=f"interpolate({a.source}, {b.source}, curve={curve}{_options(path, self._fit, self._align)})",
            sample_rate=aligned.sample_rate,
            samples=aligned.samples,
            level_db=level_over_time_db(self._level.levels_db, shares),
            checkpoint=a.checkpoint,
        )
        extremes = ([1.0 - float(weight), float(weight)] for weight in weights.aminmax())
        return self._level.not_too_loud(mixed, *extremes) if 0 < mean_weight < 1 else mixed

    def _brought_together(self, shares: list[float]) -> tuple[Aligned, Means]:
        """The time axis between the recordings, and those that have a share, ready to be mixed."""
        aligned = to_one_time_axis(self.latents, shares, fit=self._fit, config=_config_of(self._codec))
        used = [index for index, share in enumerate(shares) if share != 0]
        weights = torch.tensor([shares[index] for index in used])[:, None].expand(-1, aligned.latent_frames)
        return aligned, self._moved(used, aligned, weights)

    def _moved(self, used: list[int], aligned: Aligned, weights: Float[Tensor, "used latent_frames"]) -> Means:
        """Those used on this time axis, at the pitch and the time between them."""
        if self._codec is None or len(used) == 1:
            return aligned.means[used]
        notes, ratios = self._notes_of(used, aligned, self._codec, self._align), [aligned.ratios[one] for one in used]
        return notes.at(weights, seconds=aligned.duration_seconds, ratios=ratios)

    def _notes_of(self, used: list[int], aligned: Aligned, codec: Codec, by: MatchBy) -> NoteAlignment:
        """The alignment of those used; notes are matched once, for all steps of a path."""
        if self._matched is None or self._matched[0] != used:
            at_mean_length = [1 / len(used) if index in used else 0.0 for index in range(len(self.latents))]
            halfway = to_one_time_axis(self.latents, at_mean_length, fit=self._fit, config=codec.config)
            match = match_notes(
                codec,
                [halfway.recordings[index] for index in used],
                seconds=halfway.duration_seconds,
                by=by,
                ratios=[halfway.ratios[index] for index in used],
                latent_frames=halfway.latent_frames,
            )
            self._matched, self._notes = (used, match), None
        recordings = [aligned.recordings[index] for index in used]
        if self._notes is None or not all(map(_same, self._notes.means, recordings)):
            self._notes = NoteAlignment(codec, recordings, self._matched[1])
        return self._notes


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


def _refuse_unknown(name: str, value: str, choices: Any) -> None:
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


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _config_of(codec: Codec | None) -> Config:
    return codec.config if codec else DEFAULT_CONFIG


@functools.cache
def _bundled() -> Codec:
    """Loaded once, when it is first needed."""
    return load()
