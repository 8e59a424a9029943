"""The spectrograms that measures look at: STFT magnitudes, and 128 mel bands in dB."""

import warnings
from functools import cache

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor

N_FFT, HOP_LENGTH, N_MELS = 2048, 512, 128
RANGE_DB = 80.0
"""What is further below the peak counts as that far below it: nobody hears more."""
SILENT = 1e-10


def stft_magnitude(
    waveform: Float[Tensor, "channels samples"], *, n_fft: int = N_FFT, hop_length: int = HOP_LENGTH
) -> Float[Tensor, "channels bins frames"]:
    """Magnitudes of the STFT with a Hann window, the waveform taken to be zero outside."""
    window = torch.hann_window(n_fft, device=waveform.device)
    stft = torch.stft(waveform, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
    return stft.abs()


def log_mel_db(magnitude: Float[Tensor, "*batch bins frames"], sample_rate: int) -> Float[Tensor, "*batch mels frames"]:
    """Levels of slaney mel bands, as amplitudes in dB; no floor but that of the logarithm."""
    bank = mel_bank(sample_rate=sample_rate, n_fft=2 * (magnitude.shape[-2] - 1), n_mels=N_MELS).to(magnitude)
    return 20 * (bank @ magnitude).clamp_min(SILENT).log10()


def with_floor(level_db: Float[Tensor, "*shape"], reference_db: Float[Tensor, "*reference"]) -> Float[Tensor, "*shape"]:
    """Levels, with those ``RANGE_DB`` under the reference's peak raised to there."""
    return level_db.clamp_min(float(reference_db.max()) - RANGE_DB)


def distance_db(level_db: Float[Tensor, "*shape"], reference_db: Float[Tensor, "*shape"]) -> float:
    """RMS difference in dB, both above the reference's floor."""
    difference = with_floor(level_db, reference_db) - with_floor(reference_db, reference_db)
    return float(difference.square().mean().sqrt())


@cache
def mel_bank(*, sample_rate: int, n_fft: int, n_mels: int) -> Float[Tensor, "mels bins"]:
    """Slaney's mel filters, each of unit area, from 0 Hz to half the sample rate: librosa's default."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        bank = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return bank.mT.contiguous()
