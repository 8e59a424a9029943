"""What no model with this front end can exceed: the truth through the same synthesis."""

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.bank import Bank
from audiovae.codec import ITERATIONS, Codec
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.griffin_lim import griffin_lim


def through_true_bands(
    codec: Codec, waveform: Float[Tensor, "1 samples"], *, quality: str
) -> Float[Tensor, "1 samples"]:
    """The front end's ceiling: the sound's own bands, inverted, and Griffin-Lim."""
    bands = codec.spectrogram(waveform[None].to(codec.device))[0]
    magnitude = codec.spectrogram.magnitude(bands)
    return _synthesise(codec, magnitude, waveform.shape[1], quality, bank=codec.spectrogram.bank)


def through_true_magnitudes(
    codec: Codec, waveform: Float[Tensor, "1 samples"], *, quality: str
) -> Float[Tensor, "1 samples"]:
    """Griffin-Lim's ceiling: the sound's own STFT magnitudes."""
    config = codec.config.spectrogram
    magnitude = stft_magnitude(waveform, n_fft=config.n_fft, hop_length=config.hop_length)
    return _synthesise(codec, magnitude.to(codec.device), waveform.shape[1], quality)


def _synthesise(
    codec: Codec,
    magnitude: Float[Tensor, "1 bins frames"],
    samples: int,
    quality: str,
    *,
    bank: Bank | None = None,
) -> Float[Tensor, "1 samples"]:
    hop_length = codec.config.spectrogram.hop_length
    waveform = griffin_lim(magnitude, hop_length=hop_length, iterations=ITERATIONS[quality], bank=bank).cpu()
    return torch.nn.functional.pad(waveform, (0, samples - waveform.shape[1]))
