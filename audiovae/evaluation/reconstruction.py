"""How close a waveform comes to its target, by magnitudes: the phase is reconstructed, so waveforms never match."""

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.evaluation.log_mel import HOP_LENGTH, N_FFT, SILENT, log_mel_db, stft_magnitude, with_floor

RESOLUTIONS = (512, 1024, 2048)
"""STFT sizes of the multi-resolution distance, in samples; each with a hop of a quarter."""
SHORT_N_FFT = 256
"""Of windows, in samples, in which is seen what happens within a frame of the front end: smeared attacks, and phases
that make noise buzz at the frame rate."""
IDENTICAL_DB = -120.0
"""Spectral convergence of what differs by rounding only."""


def log_mel_error_db(
    target: Float[Tensor, "channels samples"], output: Float[Tensor, "channels samples"], sample_rate: int
) -> float:
    """Mean absolute difference of the log-mel spectrograms, above a floor 80 dB under the target's peak."""
    true, made = (log_mel_db(stft_magnitude(waveform), sample_rate) for waveform in (target, output))
    return float((with_floor(made, true) - with_floor(true, true)).abs().mean())


def spectral_convergence_db(
    target: Float[Tensor, "channels samples"], output: Float[Tensor, "channels samples"]
) -> float:
    """20 log10(|| |output| - |target| || / || target ||) of STFT magnitudes; lower is closer, silence has 0."""
    return float(20 * _convergence(stft_magnitude(target), stft_magnitude(output)).log10().clamp_min(IDENTICAL_DB / 20))


def log_spectral_distance_db(
    target: Float[Tensor, "channels samples"],
    output: Float[Tensor, "channels samples"],
    *,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
) -> float:
    """RMS difference of the bins' levels in dB in each frame, averaged over frames (Gray & Markel, 1976)."""
    magnitudes = (stft_magnitude(one, n_fft=n_fft, hop_length=hop_length) for one in (target, output))
    true, made = (20 * magnitude.clamp_min(SILENT).log10() for magnitude in magnitudes)
    difference = with_floor(made, true) - with_floor(true, true)
    return float(difference.square().mean(-2).sqrt().mean())


def short_window_distance_db(
    target: Float[Tensor, "channels samples"], output: Float[Tensor, "channels samples"]
) -> float:
    """The log-spectral distance in windows of ``SHORT_N_FFT`` samples."""
    return log_spectral_distance_db(target, output, n_fft=SHORT_N_FFT, hop_length=SHORT_N_FFT // 4)


def multi_resolution_distance(
    target: Float[Tensor, "channels samples"], output: Float[Tensor, "channels samples"]
) -> float:
    """Multi-resolution STFT distance (Yamamoto et al., 2020, Parallel WaveGAN), without unit.

    Mean over ``RESOLUTIONS`` of spectral convergence as a ratio plus the mean absolute difference of natural-log
    magnitudes, those above a floor 80 dB under the target's peak.
    """
    distances = []
    for n_fft in RESOLUTIONS:
        true, made = (stft_magnitude(one, n_fft=n_fft, hop_length=n_fft // 4) for one in (target, output))
        floor = float(true.max()) * 1e-4
        logs = (made.clamp_min(floor).log() - true.clamp_min(floor).log()).abs().mean()
        distances.append(_convergence(true, made) + logs)
    return float(torch.stack(distances).mean())


def _convergence(
    true: Float[Tensor, "channels bins frames"], made: Float[Tensor, "channels bins frames"]
) -> Float[Tensor, ""]:
    return (made - true).norm() / true.norm()
