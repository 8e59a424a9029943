"""Recordings brought to the pitch and the time between them before their latents are mixed.

So a note glides and moves from where it is in one to where it is in the other, instead of crossfading.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.interval import best_intervals, matches
from audiovae.lag import best_lags, onset_strength
from audiovae.retiming import common_places, common_times, read, settled
from audiovae.transposition import transpose

Means = Float[Tensor, "recordings channels latent_channels latent_frames"]


class NoteAlignment:
    """Recordings of one length, and how far apart they are in pitch and time at each spectrogram frame.

    Intervals and lags are found from what the decoder makes of the latents (``interval``, ``lag``), the same ones for
    all channels. ``by`` says which are matched.
    """

    def __init__(self, codec: Codec, means: Means, *, by: Literal["both", "pitch", "time"] = "both") -> None:
        self.codec, self.means = codec, means
        self._short: dict[int, tuple[Tensor, Tensor]] = {}
        """Of recordings of one piece, what ``_decoded`` says: they are moved for every step of a path."""
        frames = codec.config.model.time_stride * means.shape[-1]
        lags = _lags_to_first(codec, means) if by != "pitch" else torch.zeros(len(means) - 1, frames)
        self.times = common_times(lags)
        """Where in each lies what happens at each frame of the time axis between them, [recordings, frames]."""
        self.above_semitones = self._intervals_above_first() if by != "time" else torch.zeros(len(means), frames)
        """How far each lies above the first one at each frame of that axis, [recordings, frames]."""

    def at(self, weights: Float[Tensor, "recordings latent_frames"]) -> Means:
        """All recordings at the weighted mean of their pitches and times, frame by frame, by weights that sum to 1.

        Where a recording has all the weight, or none of it, it is left as it is.
        """
        chosen = _smoothly(weights.float(), self.codec.config.model.time_stride)
        places = common_places(self.times, chosen)
        above_semitones = read(self.above_semitones, places)
        common = (chosen * above_semitones).sum(0)
        semitones = torch.where(chosen == 0, 0.0, common - above_semitones)
        frames = torch.arange(len(places), dtype=torch.float64)
        times = torch.where((chosen == 0).all(1, keepdim=True), frames, settled(read(self.times, places)))
        return torch.stack([self._moved(place, times[place], semitones[place]) for place in range(len(self.means))])

    def _moved(
        self, place: int, times: Float[Tensor, " frames"], semitones: Float[Tensor, " frames"]
    ) -> Float[Tensor, "channels latent_channels latent_frames"]:
        """Latents of a recording read at these frames of its own, and so much higher.

        What the move changes in their spectrogram's encoding is added, z + E(T(D(z))) - E(D(z)), with z and the last
        read where the move reads: they stay the same where nothing moves, whatever encoder and decoder do.
        """
        mean, model, config = self.means[place], self.codec.checkpoint.model, self.codec.config
        context, stride, moved = 2 * model.context_latent_frames, config.model.time_stride, []
        frames = torch.arange(len(times), dtype=torch.float64)
        if not semitones.any() and torch.equal(times, frames):
            return mean
        for first, last, keep in chunks(mean.shape[-1], CHUNK_LATENT_FRAMES, context):
            part = slice(first * stride, last * stride)
            start, spectrogram, encoding = self._decoded(place, times[part])
            with torch.inference_mode():
                there = read(spectrogram, times[part] - start * stride)
                encoded = model.encode(transpose(there, semitones[part], config.spectrogram)).mean
            # A latent frame lies in the middle of its spectrogram frames.
            middles = (times[part].unflatten(0, (-1, stride)).mean(1) - (stride - 1) / 2) / stride
            change = encoded - read(encoding, middles - start)
            moved.append((read(mean, middles) + change.to(mean))[..., keep])
        return torch.cat(moved, dim=-1)

    def _decoded(self, place: int, times: Float[Tensor, " frames"]) -> tuple[int, Tensor, Tensor]:
        """What is needed to read at these times: its first latent frame, D(z) and E(D(z)).

        They are [channels, 1, n_bands, frames] and [channels, latent_channels, latent_frames].
        """
        if place in self._short:
            return 0, *self._short[place]
        model, total, stride = self.codec.checkpoint.model, self.means.shape[-1], self.codec.config.model.time_stride
        first, last = 0, total
        if total > CHUNK_LATENT_FRAMES:
            first = max(0, int(times.min()) // stride - 2 * model.context_latent_frames)
            last = min(total, int(times.max()) // stride + 2 + 2 * model.context_latent_frames)
        with torch.inference_mode():
            latents = self.means[place, ..., first:last].to(self.codec.device, torch.float32)
            spectrogram = model.decode(latents)
            encoding = model.encode(spectrogram).mean
        if last - first == total:
            self._short[place] = spectrogram, encoding
        return first, spectrogram, encoding

    def _intervals_above_first(self) -> Float[Tensor, "recordings frames"]:
        """How many semitones each recording lies above the first one, by frame of the common time axis."""
        stride, config = self.codec.config.model.time_stride, self.codec.config.spectrogram
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.means[1:]]
        for first, last, _ in chunks(self.means.shape[-1], CHUNK_LATENT_FRAMES, 0):
            pieces = []
            for place, times in enumerate(self.times[:, first * stride : last * stride]):
                start, spectrogram, _ = self._decoded(place, times)
                pieces.append(read(spectrogram[:, 0].mean(0), times - start * stride).cpu())
            for matched, other in zip(found, pieces[1:], strict=True):
                matched.append(matches(pieces[0], other, config))
        rows = [best_intervals(*(torch.cat(part) for part in zip(*matched, strict=True))) for matched in found]
        return torch.stack([torch.zeros_like(rows[0]), *rows])


def _lags_to_first(codec: Codec, means: Means) -> Float[Tensor, "others frames"]:
    """By how many frames each recording but the first is behind the first."""
    first, *others = (onset_strength(piece.mean(0).cpu() for piece in codec.spectrogram_chunks(mean)) for mean in means)
    return torch.stack([best_lags(first, other) for other in others])


def _smoothly(weights: Float[Tensor, "recordings latent_frames"], stride: int) -> Float[Tensor, "recordings frames"]:
    """Weights of latent frames to those of spectrogram frames, in lines from one's middle to the next one's."""
    return functional.interpolate(weights[None], scale_factor=stride, mode="linear", align_corners=False)[0]
