"""Sounds whose phases are hard to find, their STFTs, and how far a waveform is from one."""

import math

import torch
from torch import Tensor

from audiovae.griffin_lim import griffin_lim

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512


def stft(waveform: Tensor, n_fft: int = N_FFT, hop_length: int = HOP) -> Tensor:
    window = torch.hann_window(n_fft)
    return torch.stft(waveform, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True)


def convergence_db(waveform: Tensor, magnitude: Tensor) -> float:
    error = stft(waveform).abs() - magnitude
    return float(20 * torch.log10(error.norm() / magnitude.norm()))


def seconds(duration: float) -> Tensor:
    return torch.arange(int(duration * SAMPLE_RATE) // HOP * HOP) / SAMPLE_RATE


def chord(duration: float = 2.0) -> Tensor:
    """Three harmonic notes, struck anew every half second, decaying."""
    time = seconds(duration)
    decay = torch.exp(-6 * (time % 0.5))
    notes = [sum(torch.sin(2 * math.pi * k * f * time + k) / k for k in range(1, 12)) for f in (220.0, 277.2, 329.6)]
    return 0.1 * decay * sum(notes)


def bursts(duration: float = 2.0) -> Tensor:
    """Decaying noise, five times a second, with silence between."""
    time = seconds(duration)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(1))
    return 0.3 * noise * torch.exp(-40 * (time % 0.2)) * ((time % 0.2) < 0.15)


def vibrato(duration: float) -> Tensor:
    time = seconds(duration)
    wobble = 3 * torch.sin(2 * math.pi * 0.7 * time)
    return sum(0.1 / k * torch.sin(k * (2 * math.pi * 110 * time + 0.3 * wobble) + k) for k in range(1, 20))


def in_blocks(
    magnitude: Tensor, *, block: int, context: int, look_ahead: int, iterations: int
) -> tuple[Tensor, list[int]]:
    """A long recording as a caller makes it: each block sees some past, and some future that it doesn't emit."""
    frames, waveform, joins = magnitude.shape[2], magnitude.new_zeros(magnitude.shape[0], 0), []
    for start in range(0, frames - 1, block):
        stop, left = min(start + block, frames - 1), max(0, start - context)
        past = waveform[:, left * HOP :]
        made = griffin_lim(
            magnitude[:, :, left : stop + look_ahead + 1], hop_length=HOP, iterations=iterations, past=past
        )
        assert torch.equal(made[:, : past.shape[1]], past)
        joins += [start * HOP] if start else []
        waveform = torch.cat([waveform, made[:, past.shape[1] : (stop - left) * HOP]], 1)
    return waveform, joins
