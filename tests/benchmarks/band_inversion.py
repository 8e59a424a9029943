"""Bands back to STFT magnitudes: the package's updates beside a pseudo-inverse and librosa's least squares.

    python tests/benchmarks/band_inversion.py [CLIP...] [--seconds 5] [--write tests/benchmarks/synthesis.md]

Spectral convergence in dB of the inverted magnitudes to the true ones (lower is better), and CPU milliseconds for 10 s
of audio at 44.1 kHz, both as means over clips (by default those of data/examples), on one thread.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import librosa
import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.audio import Audio

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512
EXAMPLES = Path(__file__).parents[2] / "data" / "examples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, default=sorted(EXAMPLES.glob("*.flac")))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spectrogram = audiovae.load(device="cpu").spectrogram
    bank = spectrogram.bank.filters
    inverse = torch.linalg.pinv(bank)

    def ours(bands: Tensor) -> Tensor:
        return spectrogram.magnitude(spectrogram.normalise(bands))

    def by_pseudo_inverse(bands: Tensor) -> Tensor:
        return (inverse @ (bands * spectrogram.full_scale)).clamp_min(0)

    def by_librosa(bands: Tensor) -> Tensor:
        return torch.from_numpy(librosa.util.nnls(bank.numpy(), (bands * spectrogram.full_scale).numpy()))

    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "audiovae: 5 multiplicative updates": ours,
        "pseudo-inverse, clamped": by_pseudo_inverse,
        "librosa.util.nnls": by_librosa,
    }
    convergence: dict[str, list[float]] = {name: [] for name in methods}
    milliseconds: dict[str, list[float]] = {name: [] for name in methods}
    with torch.inference_mode():
        for path in arguments.clips:
            waveform = Audio.load(path).resample(SAMPLE_RATE).waveform[0, : int(arguments.seconds * SAMPLE_RATE)]
            window = torch.hann_window(N_FFT)
            true = torch.stft(waveform, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True).abs()
            bands = spectrogram.to_bands(true)
            for name, method in methods.items():
                start = time.process_time()
                made = method(bands)
                milliseconds[name].append(1e4 * (time.process_time() - start) / arguments.seconds)
                convergence[name].append(float(20 * torch.log10((made - true).norm() / true.norm())))
    rows = [[name, f"{mean(convergence[name]):.1f}", f"{mean(milliseconds[name]):.0f}"] for name in methods]
    text = table(["method", "spectral convergence, dB ↓", "CPU ms for 10 s"], rows)
    print(text)
    if arguments.write:
        write_block(arguments.write, "band-inversion", text)


if __name__ == "__main__":
    main()
