"""Spectrograms at another pitch: every partial moved along the frequency axis by the same interval."""

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.config import SpectrogramConfig
from audiovae.spectrogram import band_centres_hz


def transpose(
    spectrogram: Float[Tensor, "*batch n_bands frames"],
    semitones: Float[Tensor, " frames"],
    config: SpectrogramConfig,
) -> Float[Tensor, "*batch n_bands frames"]:
    """Each frame as if its sound were so much higher, or lower where ``semitones`` is negative.

    A band takes the level of the band that lies lower by the interval, or between two if none lies there. The whole
    spectrum moves, as when a tape plays faster, while time stays. Beyond the last band, its level goes on.
    """
    centres = band_centres_hz(config).to(spectrogram.device)
    wanted = centres[:, None] / 2 ** (semitones.to(centres) / 12)
    left, share = bracket(centres, wanted)
    shape = spectrogram.shape
    return torch.lerp(
        spectrogram.gather(-2, left.expand(shape)), spectrogram.gather(-2, (left + 1).expand(shape)), share
    )


def bracket(
    places: Float[Tensor, " places"], wanted: Float[Tensor, "*shape"]
) -> tuple[Tensor, Float[Tensor, "*shape"]]:
    """For each wanted value the place at or below it and the share of the way to the next one, 0 to 1."""
    left = (torch.searchsorted(places, wanted.contiguous(), right=True) - 1).clamp(0, len(places) - 2)
    width = (places[left + 1] - places[left]).clamp_min(1e-6)
    return left, ((wanted - places[left]) / width).clamp(0, 1)
