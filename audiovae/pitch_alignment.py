"""Recordings brought to the pitch between them before their latents are mixed, so that tones glide, not crossfade."""

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.interval import best_intervals, matches
from audiovae.transposition import transpose

Means = Float[Tensor, "recordings channels latent_channels latent_frames"]


class PitchAlignment:
    """Recordings on one time axis, and how far apart they are in pitch at each spectrogram frame.

    Intervals are found from what the decoder makes of the latents (``interval``), the same ones for all channels.
    """

    def __init__(self, codec: Codec, means: Means) -> None:
        self.codec, self.means = codec, means
        self.above_semitones = _intervals_above_first(codec, means)
        """How far each lies above the first one, [recordings, frames]."""
        self._short: dict[int, tuple[Tensor, Tensor]] = {}
        """Of recordings of one piece, what ``_decoded`` says: they are transposed for every step of a path."""

    def at(self, weights: Float[Tensor, "recordings latent_frames"]) -> Means:
        """All recordings transposed to the weighted mean of their pitches, frame by frame, by weights that sum to 1.

        Where a recording has all the weight, or none of it, it is left as it is.
        """
        chosen = weights.float().repeat_interleave(self.codec.config.model.time_stride, dim=1)
        common = (chosen * self.above_semitones).sum(0)
        semitones = torch.where(chosen == 0, 0.0, common - self.above_semitones)
        return torch.stack([self._transposed(place, one) for place, one in enumerate(semitones)])

    def _transposed(
        self, place: int, semitones: Float[Tensor, " frames"]
    ) -> Float[Tensor, "channels latent_channels latent_frames"]:
        """Latents of a recording so much higher at each spectrogram frame.

        They move by what transposing changes in their spectrogram's encoding, z + E(T(D(z))) - E(D(z)), and so stay
        the same where there is nothing to transpose, whatever encoder and decoder do.
        """
        mean, model, config = self.means[place], self.codec.checkpoint.model, self.codec.config
        if not semitones.any():
            return mean
        context, stride, moved = 2 * model.context_latent_frames, config.model.time_stride, []
        for first, last, keep in chunks(mean.shape[-1], CHUNK_LATENT_FRAMES, context):
            spectrogram, encoding = self._decoded(place, first, last)
            with torch.inference_mode():
                higher = transpose(spectrogram, semitones[first * stride : last * stride], config.spectrogram)
                change = model.encode(higher).mean - encoding
            moved.append(mean[..., first:last][..., keep] + change[..., keep].to(mean))
        return torch.cat(moved, dim=-1)

    def _decoded(self, place: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """D(z) and E(D(z)) of a piece: [channels, 1, n_bands, frames], [channels, latent_channels, latent_frames]."""
        if place in self._short:
            return self._short[place]
        with torch.inference_mode():
            latents = self.means[place, ..., first:last].to(self.codec.device, torch.float32)
            spectrogram = self.codec.checkpoint.model.decode(latents)
            found = spectrogram, self.codec.checkpoint.model.encode(spectrogram).mean
        if last - first == self.means.shape[-1]:
            self._short[place] = found
        return found


def _intervals_above_first(codec: Codec, means: Means) -> Float[Tensor, "recordings frames"]:
    """How many semitones each recording lies above the first one, by spectrogram frame."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in means[1:]]
    for pieces in zip(*(codec.spectrogram_chunks(mean) for mean in means), strict=True):
        first, *others = (piece.mean(0).cpu() for piece in pieces)
        for matched, other in zip(found, others, strict=True):
            matched.append(matches(first, other, codec.config.spectrogram))
    rows = [best_intervals(*(torch.cat(part) for part in zip(*matched, strict=True))) for matched in found]
    return torch.stack([torch.zeros_like(rows[0]), *rows])
