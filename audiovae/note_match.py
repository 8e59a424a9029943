"""Which notes of recordings belong together: how far apart they are in pitch and time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.interval import best_intervals, matches
from audiovae.lag import best_lags, onset_strength
from audiovae.retiming import common_times, read, stretched_places

Means = Float[Tensor, "recordings channels latent_channels latent_frames"]
MatchBy = Literal["both", "pitch", "time"]


@dataclass(frozen=True, eq=False)
class NoteMatch:
    """How far apart recordings of one length are in pitch and time, on the time axis between them."""

    times: Float[Tensor, "recordings frames"]
    """The frame of each recording in which lies what happens at each frame of that axis."""
    above_semitones: Float[Tensor, "recordings frames"]
    """How far each lies above the first one at each frame of that axis."""
    seconds: float
    """The length that they have."""

    def stretched(self, frames: int, seconds: float) -> "NoteMatch":
        """The same of the same recordings, when they are brought to another length (as by ``alignment.stretch``)."""
        ratio = self.seconds / seconds if seconds else 1.0
        places = stretched_places(frames, ratio)
        shifts = read(self.times - torch.arange(self.times.shape[1]), places) / ratio
        return NoteMatch(torch.arange(frames) + shifts, read(self.above_semitones, places), seconds)


def match_notes(codec: Codec, means: Means, *, seconds: float, by: MatchBy = "both") -> NoteMatch:
    """Compares what the decoder makes of the latents (``lag``, ``interval``), all channels of a recording together.

    Every recording is compared with the first. ``by`` says which is matched; what isn't counts as equal.
    ``seconds`` is their length.
    """
    frames = codec.config.model.time_stride * means.shape[-1]
    lags = torch.zeros(len(means) - 1, frames)
    if by != "pitch":
        first, *others = (onset_strength(_mono_pieces(codec, mean)) for mean in means)
        lags = torch.stack([best_lags(first, other) for other in others])
    times = common_times(lags)
    above = _intervals_above_first(codec, means, times) if by != "time" else torch.zeros(len(means), frames)
    return NoteMatch(times, above, seconds)


def decoded_around(
    codec: Codec, mean: Float[Tensor, "channels latent_channels latent_frames"], times: Float[Tensor, " frames"]
) -> tuple[int, Float[Tensor, "channels 1 n_bands _"]]:
    """The decoder's spectrogram of a recording, as far as it is needed to read it at these times.

    Of what is long it is a part, which begins with the latent frame that is returned; context for encoding it is in it.
    """
    model, total, first, last = codec.checkpoint.model, mean.shape[-1], 0, mean.shape[-1]
    if total > CHUNK_LATENT_FRAMES:
        stride, context = codec.config.model.time_stride, 2 * model.context_latent_frames
        first = max(0, int(times.min()) // stride - context)
        last = min(total, int(times.max()) // stride + 2 + context)
    with torch.inference_mode():
        return first, model.decode(codec.all_channels(mean[..., first:last]).to(codec.device, torch.float32))


def _intervals_above_first(
    codec: Codec, means: Means, times: Float[Tensor, "recordings frames"]
) -> Float[Tensor, "recordings frames"]:
    """How many semitones each recording lies above the first one, by frame of the common time axis."""
    stride, config = codec.config.model.time_stride, codec.config.spectrogram
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in means[1:]]
    for begin, end, _ in chunks(means.shape[-1], CHUNK_LATENT_FRAMES, 0):
        pieces = []
        for mean, its_times in zip(means, times[:, begin * stride : end * stride], strict=True):
            start, spectrogram = decoded_around(codec, mean, its_times)
            pieces.append(read(spectrogram[:, 0].mean(0).cpu(), its_times - start * stride))
        for matched, other in zip(found, pieces[1:], strict=True):
            matched.append(matches(pieces[0], other, config))
    rows = [best_intervals(*(torch.cat(part) for part in zip(*matched, strict=True))) for matched in found]
    return torch.stack([torch.zeros_like(rows[0]), *rows])


def _mono_pieces(
    codec: Codec, mean: Float[Tensor, "channels latent_channels latent_frames"]
) -> Iterator[Float[Tensor, "n_bands _"]]:
    return (piece.mean(0).cpu() for piece in codec.spectrogram_chunks(codec.all_channels(mean)))
