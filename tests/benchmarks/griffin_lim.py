"""Phase reconstruction against librosa and torchaudio at equal iterations: quality and CPU time, on one thread.

    python tests/benchmarks/griffin_lim.py clip.wav other.flac

Prints, as the mean over clips, spectral convergence 20 log10(|| |STFT(y)| - A || / || A ||) in dB (lower is better)
and milliseconds of CPU for 10 s of audio at 44.1 kHz (the better of two interleaved runs). Only the first 10 s of the
first channel of a clip are taken.
"""

import sys
import time
import warnings
from collections.abc import Callable

import librosa
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor

from audiovae.griffin_lim import griffin_lim

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512
ITERATIONS = (0, 4, 8, 16, 32)
REPEATS = 2


def stft(waveform: Tensor) -> Tensor:
    window = torch.hann_window(N_FFT, device=waveform.device)
    return torch.stft(waveform, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True).abs()


def load(path: str) -> Tensor:
    waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(waveform[:, 0], rate, SAMPLE_RATE)[: 10 * SAMPLE_RATE]
    return torch.from_numpy(mono[: len(mono) // HOP * HOP])


def ours(magnitude: Tensor, iterations: int) -> Tensor:
    return griffin_lim(magnitude[None], hop_length=HOP, iterations=iterations)[0]


def with_torchaudio(magnitude: Tensor, iterations: int) -> Tensor:
    transform = torchaudio.transforms.GriffinLim(N_FFT, iterations, hop_length=HOP, power=1.0, momentum=0.99)
    return transform(magnitude)


def with_librosa(magnitude: Tensor, iterations: int) -> Tensor:
    waveform = librosa.griffinlim(magnitude.numpy(), n_iter=iterations, hop_length=HOP, n_fft=N_FFT, momentum=0.99)
    return torch.from_numpy(waveform)


METHODS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "audiovae": ours,
    "torchaudio": with_torchaudio,
    "librosa": with_librosa,
}


def measure(clips: list[Tensor]) -> dict[tuple[str, int], tuple[float, float]]:
    """Mean spectral convergence in dB and CPU milliseconds per 10 s, of each method and number of iterations."""
    results = {}
    for iterations in ITERATIONS:
        quality: dict[str, list[float]] = {name: [] for name in METHODS}
        cost: dict[str, list[float]] = {name: [] for name in METHODS}
        for clip in clips:
            magnitude = stft(clip)
            times: dict[str, list[float]] = {name: [] for name in METHODS}
            for name, method in list(METHODS.items()) * REPEATS:
                start = time.process_time()
                waveform = method(magnitude, iterations)
                times[name].append(time.process_time() - start)
                if len(times[name]) == 1:
                    error = (stft(waveform) - magnitude).norm() / magnitude.norm()
                    quality[name].append(float(20 * torch.log10(error)))
            for name in METHODS:
                cost[name].append(1e3 * min(times[name]) * 10 * SAMPLE_RATE / len(clip))
        for name in METHODS:
            results[name, iterations] = (sum(quality[name]) / len(clips), sum(cost[name]) / len(clips))
    return results


def main(paths: list[str]) -> None:
    """Measures and prints the table."""
    if not paths:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    clips = [load(path) for path in paths]
    for method in METHODS.values():  # compiles what compiles itself at its first call
        method(stft(clips[0][: 16 * HOP]), 1)
    results = measure(clips)
    print(f"{len(clips)} clips; SC dB / CPU ms per 10 s")
    print("| iterations | " + " | ".join(METHODS) + " |")
    print("|---" * (1 + len(METHODS)) + "|")
    for iterations in ITERATIONS:
        cells = [f"{results[name, iterations][0]:.1f} / {results[name, iterations][1]:.0f}" for name in METHODS]
        print(f"| {iterations} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
