"""What must be matched before recordings are mixed: channels, length, sample rate, level.

Lengths. A recording of n samples at the model's rate has 1 + n // hop latent frames (``count_latent_frames``),
the last of them partial. The hop comes from ``config``, the bundled model's unless it is given; recordings that
don't obey its rule are refused, so that a forgotten config is an error and not a wrong length.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.latents import Latents, count_latent_frames
from audiovae.retiming import read, stretched_places

Fit = Literal["stretch", "loop", "trim"]
"""How lengths are matched: stretch (resampled in time to the length between), loop (to the longest), trim."""
Number = float | int
DEFAULT_CONFIG = Config()
LARGEST_RATIO = 4.0
"""How many times as fast a recording is played with all of its detail: more would only cost memory."""
SILENT_DB = -90.0
"""Level that silence counts as, in a mix with something audible: the end of a 16-bit recording's range."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Recordings that are brought to one time axis, and the length of what is made of them."""

    recordings: list[Float[Tensor, "channels latent_channels _"]]
    """Their means, all of the same channels, looped or trimmed if need be, but not stretched."""
    ratios: list[float]
    """How many times as long each recording is as what is made of them: it is to be stretched by that."""
    latent_frames: int
    """Of what is made of them."""
    sample_rate: int
    """Hz."""
    samples: int
    """At ``sample_rate``."""

    @property
    def duration_seconds(self) -> float:
        """Length of what is made of them."""
        return self.samples / self.sample_rate

    @property
    def means(self) -> Float[Tensor, "recordings channels latent_channels latent_frames"]:
        """The recordings on the common time axis, ready to be mixed: those that must be are stretched as latents."""
        pairs = zip(self.recordings, self.ratios, strict=True)
        return torch.stack([stretch(mean, self.latent_frames, ratio=ratio) for mean, ratio in pairs])


def to_one_time_axis(
    latents: Sequence[Latents], weights: Sequence[Number], *, fit: Fit = "stretch", config: Config = DEFAULT_CONFIG
) -> Aligned:
    """Brings recordings to the same channels, and says to which latent frames, and how far each is to be stretched.

    With "stretch" the length is the mean of the recordings', by ``weights`` (which sum to 1), never outside their
    range; a recording that has all the weight is left untouched. "loop" repeats the shorter ones' whole latent
    frames up to the longest, "trim" cuts all to the shortest; both ignore the weights. The sample rate is the
    highest one, so that all steps of a path have the same. Raises InputError for what can't be mixed.
    """
    check_matching(latents, config)
    sample_rate = max(one.sample_rate for one in latents)
    seconds, reference = _common_length(latents, weights, fit)
    if reference is None:
        samples = round(seconds * sample_rate)
        frames = count_latent_frames(samples, sample_rate, config)
    else:
        frames = reference.latent_frames
        samples = nearest_samples(seconds * sample_rate, frames, sample_rate, config)
    recordings, ratios = [], []
    for mean, one in zip(match_channels(latents), latents, strict=True):
        ratio = one.duration_seconds / seconds if fit == "stretch" and seconds else 1.0
        if ratio > LARGEST_RATIO:
            mean = stretch(mean, round(LARGEST_RATIO * frames), ratio=ratio / LARGEST_RATIO)
        recordings.append(mean if fit == "stretch" else _loop(mean, frames)[..., :frames])
        ratios.append(min(ratio, LARGEST_RATIO))
    return Aligned(recordings, ratios, frames, sample_rate, samples)


def check_matching(latents: Sequence[Latents], config: Config) -> None:
    """Raises InputError unless the recordings come from one model, of ``config``, and can share their channels."""
    if not latents:
        raise InputError("latents: none given")
    first = latents[0]
    for one in latents:
        if one.checkpoint != first.checkpoint:
            raise InputError(
                f"{_name(one)}: encoded by checkpoint {one.checkpoint}, but {_name(first)} by {first.checkpoint}"
            )
        if one.mean.shape[1] != first.mean.shape[1]:
            raise InputError(
                f"{_name(one)}: has {one.mean.shape[1]} latent channels, but {_name(first)} {first.mean.shape[1]}"
            )
        if one.latent_frames != count_latent_frames(one.samples, one.sample_rate, config):
            raise InputError(
                f"{_name(one)}: {one.latent_frames} latent frames don't go with {one.samples} samples at "
                f"{one.sample_rate} Hz and a hop of {config.latent_hop_length} (is it this model's config?)"
            )
    widest = max(latents, key=lambda one: one.channels)
    for one in latents:
        if one.channels not in (1, widest.channels):
            raise InputError(f"{_name(one)}: has {one.channels} channels, but {_name(widest)} {widest.channels}")


def match_channels(latents: Sequence[Latents]) -> list[Float[Tensor, "channels latent_channels _"]]:
    """The recordings' means in float32; a mono one is repeated to the channels of the others."""
    channels = max(one.channels for one in latents)
    return [one.mean.float().expand(channels, -1, -1) for one in latents]


def nearest_samples(wanted: Number, latent_frames: int, sample_rate: int, config: Config) -> int:
    """The number of samples nearest to ``wanted`` that has this many latent frames at ``sample_rate`` Hz."""
    model_rate, hop = config.spectrogram.sample_rate, config.latent_hop_length
    # count_latent_frames solved for samples: (frames - 1) hop - 1 < samples model_rate / sample_rate <= frames hop - 1
    fewest = max(0, 1 + ((latent_frames - 1) * hop - 1) * sample_rate // model_rate)
    most = (latent_frames * hop - 1) * sample_rate // model_rate
    return max(fewest, min(most, round(wanted)))


def stretch(
    mean: Float[Tensor, "channels latent_channels frames_in"], latent_frames: int, *, ratio: float
) -> Float[Tensor, "channels latent_channels latent_frames"]:
    """Resamples latents in time, linearly between frames: frame k is read at (k + 1/2) ratio - 1/2.

    ``ratio`` is the recording's duration over the wanted one. Half a frame is where a frame's middle lies;
    positions beyond the first or last middle take that frame.
    """
    if ratio == 1.0 and latent_frames == mean.shape[2]:
        return mean
    return read(mean, stretched_places(latent_frames, ratio))


def mix_level_db(levels_db: Sequence[float], weights: Sequence[Number]) -> float:
    """Level of a mix: the mean in dB by ``weights`` (which sum to 1), never outside the levels' range.

    A recording of weight 0 doesn't count, so that the ends of a path keep their own level. Silence counts as
    ``SILENT_DB``, or as the quietest other one if that is lower; among silences only it stays silence.
    """
    used = [(level, weight) for level, weight in zip(levels_db, weights, strict=True) if weight != 0]
    audible = [level for level, _ in used if level > -math.inf]
    if len(used) == 1 or not audible:
        return used[0][0]
    floor = min(SILENT_DB, *audible)
    raised = [max(level, floor) for level, _ in used]
    mean = math.fsum(level * weight for level, (_, weight) in zip(raised, used, strict=True))
    return min(max(mean, min(raised)), max(raised))


def level_over_time_db(levels_db: Sequence[float], shares: Sequence[Number]) -> float:
    """The one level of a sound that is made of several in turn: their mean in dB, by their share of the time.

    Latents carry one level, so a change of level over time is lost here. Silent parts don't count: their
    latents decode to silence at any level, and counting them would turn the others down.
    """
    heard = [(level, share) for level, share in zip(levels_db, shares, strict=True) if level > -math.inf and share > 0]
    if not heard:
        return -math.inf
    levels, total = [level for level, _ in heard], math.fsum(share for _, share in heard)
    mean = math.fsum(level * share for level, share in heard) / total
    return min(max(mean, min(levels)), max(levels))


def _common_length(latents: Sequence[Latents], weights: Sequence[Number], fit: Fit) -> tuple[float, Latents | None]:
    """Duration in seconds that all are brought to, and the recording that has exactly that one."""
    if fit == "stretch":
        used = [(one, weight) for one, weight in zip(latents, weights, strict=True) if weight != 0]
        if len(used) > 1:
            durations = [one.duration_seconds for one in latents]
            mean = math.fsum(one.duration_seconds * weight for one, weight in used)
            return min(max(mean, min(durations)), max(durations)), None
        reference = used[0][0]
    else:
        reference = (max if fit == "loop" else min)(latents, key=lambda one: one.duration_seconds)
    return reference.duration_seconds, reference


def _loop(
    mean: Float[Tensor, "channels latent_channels frames_in"], latent_frames: int
) -> Float[Tensor, "channels latent_channels _"]:
    """Repeats latents to at least ``latent_frames``, without their partial last frame: it is mostly padding."""
    if mean.shape[2] >= latent_frames:
        return mean
    whole = mean[..., : max(1, mean.shape[2] - 1)]
    return whole.repeat(1, 1, math.ceil(latent_frames / whole.shape[2]))


def _name(latents: Latents) -> str:
    return latents.source or "latents"
