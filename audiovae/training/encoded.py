"""Segments of the training data as latents, and the prior that is fitted to them."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.errors import InputError
from audiovae.model.posterior import Posterior
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram
from audiovae.training.data import Cache, segment_samples
from audiovae.training.segments import Segments, by_pitch, spectrograms

PRIOR_SEGMENTS, LAST_PRIOR_SEGMENTS, PRIOR_LATENT_FRAMES = 512, 4096, 64
"""Segments that the prior is fitted to, during training and at its end, and their length (3 s): more segments hold more
kinds of sounds, and take longer."""
HEARD_AGAIN = 4
"""How often, on average, segments may hear the same sound, at most."""
BATCH, BATCH_ON_CUDA = 8, 64
"""Segments encoded at once."""


def encode_segments(
    vae: VAE, spectrogram: Spectrogram, segments: Segments, count: int
) -> tuple[Float[Tensor, "count 1 n_bands frames"], Posterior]:
    """Spectrograms and posteriors of the first ``count`` segments."""
    batches = list(_encoded(vae, spectrogram, segments, count))
    mean, logvar = (torch.cat([getattr(posterior, part) for _, posterior in batches]) for part in ("mean", "logvar"))
    return torch.cat([target for target, _ in batches]), Posterior(mean, logvar)


def latents_of(
    vae: VAE,
    spectrogram: Spectrogram,
    cache: Cache,
    split: str,
    *,
    segments: int,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float[Tensor, "count latent_channels latent_frames"]:
    """Means of the posteriors of at most so many segments, long enough to show how sounds move.

    They are no longer than the shortest file of the split, so that none is left out.
    """
    latent_frames, hop = _latent_frames(cache, split, vae), vae.config.latent_hop_length
    heard = sum(source.samples for source in cache.split(split)) // (latent_frames * hop)
    count = max(2, min(segments, HEARD_AGAIN * heard))
    drawn = Segments(cache, split, vae.config, augment=False, latent_frames=latent_frames)
    latents = torch.empty(count, vae.config.model.latent_channels, latent_frames, dtype=dtype)
    done = 0
    for _, posterior in _encoded(vae, spectrogram, drawn, count):
        latents[done : done + len(posterior.mean)] = posterior.mean
        done += len(posterior.mean)
        progress(done, count)
    return latents


def fit_prior(vae: VAE, spectrogram: Spectrogram, cache: Cache, *, segments: int) -> Prior:
    """Fitted to the latents of at most so many training segments."""
    return fit_mixture(vae, latents_of(vae, spectrogram, cache, "train", segments=segments))


def fit_mixture(vae: VAE, latents: Float[Tensor, "count latent_channels latent_frames"]) -> Prior:
    """A mixture fitted to latents; the standard prior where these are single frames, which show no movement."""
    if latents.shape[2] < 2:
        return Prior.standard(vae.config.model.latent_channels)
    if not latents.isfinite().all():
        raise InputError("the encoder gives NaN or infinity: training went astray, a lower learning_rate may help")
    return Prior.fit(latents, importance=vae.components.scale)


def _latent_frames(cache: Cache, split: str, vae: VAE) -> int:
    hop = vae.config.latent_hop_length
    context = segment_samples(vae.config, latent_frames=1) - hop
    shortest = min(source.samples for source in cache.split(split))
    return max(1, min(PRIOR_LATENT_FRAMES, (shortest - context) // hop))


def _encoded(
    vae: VAE, spectrogram: Spectrogram, segments: Segments, count: int
) -> Iterator[tuple[Float[Tensor, "batch 1 n_bands frames"], Posterior]]:
    device = spectrogram.window.device
    size = BATCH_ON_CUDA if device.type == "cuda" else BATCH
    for first in range(0, count, size):
        # Of segments that aren't augmented, all have one pitch: their order stays.
        batch = by_pitch([segments[index] for index in range(first, min(first + size, count))])
        with torch.inference_mode():
            target = spectrograms(batch, spectrogram)
            posterior = vae.encode(target)
        yield target, posterior
