"""What training makes small: reconstruction losses on spectrograms, and the KL with free bits."""

from dataclasses import dataclass, fields
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.config import SpectrogramConfig, TrainingConfig
from audiovae.evaluation.log_mel import N_MELS, mel_bank
from audiovae.looping import TINY
from audiovae.model.posterior import Posterior
from audiovae.model.principal_components import heard_smoothing
from audiovae.spectrogram import FLOOR, Spectrogram, band_bank, mean_error_db

RESOLUTIONS = (2, 4, 8)
"""Bands and frames to a side of the squares that the multi-resolution loss averages over."""


@dataclass(frozen=True)
class Losses:
    """The parts of one step's loss, as scalars of the graph, and each channel's KL in nats a frame.

    The error in dB is there to be read; nothing is trained on it.
    """

    total: Float[Tensor, ""]
    error_db: Float[Tensor, ""]
    level: Float[Tensor, ""]
    difference: Float[Tensor, ""]
    convergence: Float[Tensor, ""]
    multi_resolution: Float[Tensor, ""]
    log: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    channel_kl: Float[Tensor, "latent_channels"]

    def detached(self) -> "Losses":
        """The same numbers without the graph, which would keep the step's memory."""
        return Losses(*(getattr(self, part.name).detach() for part in fields(self)))


def training_losses(
    reconstruction: Float[Tensor, "batch 1 n_bands frames"],
    target: Float[Tensor, "batch 1 n_bands frames"],
    posterior: Posterior | None,
    *,
    beta: float | Float[Tensor, ""],
    training: TrainingConfig,
    spectrogram: Spectrogram,
) -> Losses:
    """All losses of a batch; ``posterior`` is None for a plain autoencoder, whose KL is zero."""
    error = heard(reconstruction - target, training.heard_share)
    level, difference = error.abs().mean(), difference_loss(error)
    made, true = spectrogram.denormalise(reconstruction), spectrogram.denormalise(target)
    convergence = spectral_convergence(made, true)
    multi_resolution, log = multi_resolution_loss(made, true, spectrogram), log_loss(made, true, spectrogram)
    with torch.no_grad():
        error_db = mean_error_db(reconstruction, target, spectrogram.config)
    total = level + training.difference_weight * difference + training.convergence_weight * convergence
    total = total + training.multi_resolution_weight * multi_resolution + training.log_weight * log
    parts = level, difference, convergence, multi_resolution, log
    if posterior is None:
        nothing = torch.zeros((), device=target.device)
        return Losses(total, error_db, *parts, nothing, nothing[None])
    channel_kl = posterior.kl().mean(dim=(0, 2))
    total = total + beta * channel_kl.clamp_min(training.free_bits).sum()
    return Losses(total, error_db, *parts, channel_kl.sum(), channel_kl)


def heard(error: Float[Tensor, "batch 1 n_bands frames"], share: float) -> Float[Tensor, "batch 1 n_bands frames"]:
    """Errors, so large a share of them smoothed over bands, as the principal components have it.

    Without it a network that learns for long spends its numbers where a band is one bin wide, on an accuracy that
    nobody hears, and has fewer for the bands above.
    """
    return error if share == 0 else _heard_smoothing(error.shape[2], share, error.device) @ error


@cache
def _heard_smoothing(n_bands: int, share: float, device: torch.device) -> Float[Tensor, "n_bands n_bands"]:
    return heard_smoothing(n_bands, share).float().to(device)


def difference_loss(error: Float[Tensor, "batch 1 n_bands frames"]) -> Float[Tensor, ""]:
    """Mean absolute error of the steps between neighbouring frames and bands: sharp onsets and sharp partials."""
    return 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def log_loss(
    reconstruction: Float[Tensor, "batch 1 n_bands frames"],
    target: Float[Tensor, "batch 1 n_bands frames"],
    spectrogram: Spectrogram,
) -> Float[Tensor, ""]:
    """Mean absolute error of 128 mel bands of linear magnitudes, in units of 20 dB: soft ones count as loud ones.

    Mel bands are about as wide as what the ear tells apart, so it matters little how a band's energy lies in it.
    """
    mels = _mels_of_bands(spectrogram.config, target.device).to(target.dtype)
    made, true = ((mels @ bands + FLOOR).log10() for bands in (reconstruction, target))
    return (made - true).abs().mean()


def mel_error_db(
    reconstruction: Float[Tensor, "batch 1 n_bands frames"],
    target: Float[Tensor, "batch 1 n_bands frames"],
    spectrogram: Spectrogram,
) -> float:
    """What ``log_loss`` says of normalised spectrograms, in dB: near the log-mel error before a phase is made up."""
    return 20 * float(log_loss(spectrogram.denormalise(reconstruction), spectrogram.denormalise(target), spectrogram))


@cache
def _mels_of_bands(config: SpectrogramConfig, device: torch.device) -> Float[Tensor, "mels n_bands"]:
    """Weighted means of bands: the filters of a mel bank, on magnitudes that lie between the bands' as on a line."""
    with torch.inference_mode(False):  # it is kept, for backward passes too
        bands = band_bank(config)
        between = bands / bands.sum(0).clamp_min(TINY)
        mels = mel_bank(sample_rate=config.sample_rate, n_fft=config.n_fft, n_mels=N_MELS) @ between.mT
        return (mels / mels.sum(1, keepdim=True).clamp_min(TINY)).to(device)


def spectral_convergence(
    reconstruction: Float[Tensor, "batch *place"], target: Float[Tensor, "batch *place"]
) -> Float[Tensor, ""]:
    """||reconstruction - target|| / ||target|| of linear magnitudes, averaged over the batch (Arik et al., 2019)."""
    error = (reconstruction - target).flatten(1).norm(dim=1)
    return (error / target.flatten(1).norm(dim=1).clamp_min(1e-3)).mean()


def multi_resolution_loss(
    reconstruction: Float[Tensor, "batch 1 n_bands frames"],
    target: Float[Tensor, "batch 1 n_bands frames"],
    spectrogram: Spectrogram,
) -> Float[Tensor, ""]:
    """Mean absolute error of coarser bands: linear magnitudes, averaged over squares of bands and frames.

    Averages of compressed bands would add little, their error being at most that of the bands themselves. Those of
    magnitudes ask for what a blurred reconstruction lacks, the strength of its peaks, and not for their exact place.
    """
    errors = []
    for side in RESOLUTIONS:
        made, true = (
            spectrogram.normalise(functional.avg_pool2d(bands, side, ceil_mode=True))
            for bands in (reconstruction, target)
        )
        errors.append((made - true).abs().mean())
    return torch.stack(errors).mean()
