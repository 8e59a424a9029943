"""Which notes of recordings belong together: how far apart they are in pitch and time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.config import SpectrogramConfig
from audiovae.interval import best_intervals, correlation_at, matches, partials
from audiovae.lag import best_lags, onset_strength
from audiovae.retiming import common_times, read, stretched, stretched_places
from audiovae.voice_match import find_voices, pooled
from audiovae.voices import Voices

Means = Float[Tensor, "recordings channels latent_channels latent_frames"]
Recordings = Means | Sequence[Float[Tensor, "channels latent_channels _"]]
MatchBy = Literal["both", "pitch", "time", "none"]


@dataclass(frozen=True, eq=False)
class NoteMatch:
    """How far apart recordings of one length are in pitch and time, on the time axis between them."""

    times: Float[Tensor, "recordings frames"]
    """For each frame of that axis, the frame of each recording that belongs there."""
    above_semitones: Float[Tensor, "recordings frames"]
    """How far each lies above the first one at each frame of that axis, as a whole."""
    voices: Voices
    """What moves by intervals of its own between two recordings; between more there are no voices."""
    seconds: float
    """The length that they have."""

    def stretched(self, frames: int, seconds: float) -> "NoteMatch":
        """The same of the same recordings, when they are brought to another length."""
        ratio = self.seconds / seconds if seconds else 1.0
        places = stretched_places(frames, ratio)
        shifts = read(self.times - torch.arange(self.times.shape[1]), places) / ratio
        above_semitones, voices = read(self.above_semitones, places), self.voices.at(places)
        return NoteMatch(torch.arange(frames) + shifts, above_semitones, voices, seconds)


class PitchComparison:
    """Two sounds compared in pitch, piece by piece: as a whole, and voice by voice."""

    def __init__(self, config: SpectrogramConfig) -> None:
        self.config = config
        self._matches: list[tuple[Tensor, Tensor]] = []
        self._partials: list[tuple[Tensor, Tensor]] = []

    def add(self, a: Float[Tensor, "n_bands frames"], b: Float[Tensor, "n_bands frames"]) -> None:
        """What comes next in both."""
        in_a, in_b = partials(a, self.config), partials(b, self.config)
        self._matches.append(matches(in_a, in_b))
        self._partials.append((pooled(in_a), pooled(in_b)))

    def above_semitones(self) -> Float[Tensor, " frames"]:
        """How far the second lies above the first as a whole."""
        return best_intervals(*_joined(self._matches))

    def voices(self, above_semitones: Float[Tensor, " frames"]) -> Voices:
        """What doesn't move as the whole does."""
        in_a, in_b = (torch.cat(one, dim=1) for one in zip(*self._partials, strict=True))
        return find_voices(in_a, in_b, above_semitones, correlation_at(above_semitones, *_joined(self._matches)))


def _joined(matched: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    products, weights = zip(*matched, strict=True)
    return torch.cat(products), torch.cat(weights)


def match_notes(
    codec: Codec,
    means: Recordings,
    *,
    seconds: float,
    by: MatchBy = "both",
    ratios: Sequence[float] | None = None,
    latent_frames: int | None = None,
) -> NoteMatch:
    """Compares what the decoder makes of the latents (``lag``, ``interval``), all channels of a recording together.

    Every recording is compared with the first. ``by`` says what is matched, pitch, time, both or none; what isn't
    counts as equal. ``seconds`` and ``latent_frames`` are the length that they are compared at; each recording is as
    many times as long as ``ratios`` say, by default once.
    """
    ratios = [1.0] * len(means) if ratios is None else list(ratios)
    frames = codec.config.model.time_stride * (latent_frames or means[0].shape[-1])
    lags = torch.zeros(len(means) - 1, frames)
    if by in ("both", "time"):
        on_axis = torch.arange(frames, dtype=torch.float64)
        sounds = ([(mean, stretched(on_axis, ratio))] for mean, ratio in zip(means, ratios, strict=True))
        first, *others = (onset_strength(one for (one,) in _mono_pieces(codec, sound)) for sound in sounds)
        lags = torch.stack([best_lags(first, other) for other in others])
    times = common_times(lags)
    if by in ("time", "none"):
        return NoteMatch(times, torch.zeros(len(means), frames), Voices.none(len(means), frames), seconds)
    sounds = [(mean, stretched(its_times, ratio)) for mean, its_times, ratio in zip(means, times, ratios, strict=True)]
    compared = [PitchComparison(codec.config.spectrogram) for _ in sounds[1:]]
    for first, *others in _mono_pieces(codec, sounds):
        for comparison, other in zip(compared, others, strict=True):
            comparison.add(first, other)
    above = [one.above_semitones() for one in compared]
    voices = compared[0].voices(above[0]) if len(above) == 1 else Voices.none(len(means), frames)
    return NoteMatch(times, torch.stack([torch.zeros(frames), *above]), voices, seconds)


def decoded_around(
    codec: Codec, mean: Float[Tensor, "channels latent_channels latent_frames"], times: Float[Tensor, " frames"]
) -> tuple[int, Float[Tensor, "channels 1 n_bands _"]]:
    """The decoder's spectrogram of a recording, as far as it is needed to read it at these times.

    Of a long recording that is a part, with context for encoding it again; its first latent frame is returned too.
    """
    model, total, first, last = codec.checkpoint.model, mean.shape[-1], 0, mean.shape[-1]
    if total > CHUNK_LATENT_FRAMES:
        stride, context = codec.config.model.time_stride, 2 * model.context_latent_frames
        first = max(0, int(times.min()) // stride - context)
        last = min(total, int(times.max()) // stride + 2 + context)
    with torch.inference_mode():
        return first, model.decode(codec.all_channels(mean[..., first:last]).to(codec.device, torch.float32))


def _mono_pieces(
    codec: Codec, sounds: Sequence[tuple[Float[Tensor, "channels latent_channels _"], Float[Tensor, " frames"]]]
) -> Iterator[list[Float[Tensor, "n_bands piece"]]]:
    """What is decoded of recordings, each at frames of its own, piece by piece: all of them side by side."""
    frames, stride = len(sounds[0][1]), codec.config.model.time_stride
    # A piece may need a longer one of a recording that is played faster.
    fastest = max(1.0, *(float(times[-1] - times[0]) / frames for _, times in sounds))
    for begin, end, _ in chunks(frames, stride * math.ceil(CHUNK_LATENT_FRAMES / fastest), 0):
        pieces = []
        for mean, times in sounds:
            start, spectrogram = decoded_around(codec, mean, times[begin:end])
            pieces.append(read(spectrogram[:, 0].mean(0).cpu(), times[begin:end] - start * stride))
        yield pieces
