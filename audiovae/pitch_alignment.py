"""Recordings brought to the pitch between them before their latents are mixed, so that tones glide, not crossfade."""

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.chunks import chunks
from audiovae.codec import CHUNK_LATENT_FRAMES, Codec
from audiovae.interval import best_intervals, matches
from audiovae.transposition import transpose

Means = Float[Tensor, "recordings channels latent_channels latent_frames"]


def to_common_pitch(codec: Codec, means: Means, weights: Float[Tensor, "recordings latent_frames"]) -> Means:
    """Latents of recordings on one time axis, each transposed to the weighted mean of their pitches, frame by frame.

    ``weights`` sum to 1 at each latent frame; where one recording has all of it, it stays untouched, and those that
    have none at all stay as they are. Intervals are found from what the decoder makes of the latents (``interval``),
    the same one for all channels. Transposing moves latents by what it changes in their spectrogram's encoding:
    z + E(T(D(z))) - E(D(z)), which leaves z alone where there is nothing to transpose.
    """
    used = [index for index, share in enumerate(weights) if share.any()]
    if len(used) < 2:
        return means
    chosen = weights[used].float().repeat_interleave(codec.config.model.time_stride, dim=1)
    above = intervals_above_first(codec, means[used])
    common = (chosen * above).sum(0)
    moved = means.clone()
    for place, index in enumerate(used):
        # The interval to the common pitch says nothing of a recording that isn't heard there.
        semitones = torch.where(chosen[place] == 0, 0.0, common - above[place])
        moved[index] = transposed(codec, means[index], semitones)
    return moved


def intervals_above_first(codec: Codec, means: Means) -> Float[Tensor, "recordings frames"]:
    """How many semitones each recording lies above the first one, by spectrogram frame."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in means[1:]]
    for pieces in zip(*(codec.spectrogram_chunks(mean) for mean in means), strict=True):
        first, *others = (piece.mean(0).cpu() for piece in pieces)
        for matched, other in zip(found, others, strict=True):
            matched.append(matches(first, other, codec.config.spectrogram))
    rows = [best_intervals(*(torch.cat(part) for part in zip(*matched, strict=True))) for matched in found]
    return torch.stack([torch.zeros_like(rows[0]), *rows])


def transposed(
    codec: Codec,
    mean: Float[Tensor, "channels latent_channels latent_frames"],
    semitones: Float[Tensor, " frames"],
) -> Float[Tensor, "channels latent_channels latent_frames"]:
    """Latents of the same recording so much higher at each spectrogram frame; the same latents where that is 0."""
    if not semitones.any():
        return mean
    model, stride, config = codec.checkpoint.model, codec.config.model.time_stride, codec.config.spectrogram
    context, pieces = model.context_latent_frames, []
    for first, last, keep in chunks(mean.shape[-1], CHUNK_LATENT_FRAMES, 2 * context):
        with torch.inference_mode():
            spectrogram = model.decode(mean[..., first:last].to(codec.device, torch.float32))
            higher = transpose(spectrogram, semitones[first * stride : last * stride], config)
            change = model.encode(higher).mean - model.encode(spectrogram).mean
        pieces.append(mean[..., first:last][..., keep] + change[..., keep].to(mean))
    return torch.cat(pieces, dim=-1)
