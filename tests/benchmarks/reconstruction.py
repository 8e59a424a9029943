"""How close reconstructions come, on held-out audio, beside the ceiling of the front end.

    python tests/benchmarks/reconstruction.py FOLDER... [--clips 40] [--checkpoint FILE] [--write DOCUMENT]

For each folder (for instance corpus/music/test and corpus/notes/test of the recipes in data/), of clips spread evenly
over it, in dB:

- error: mean absolute difference of log-mel spectrograms (128 slaney mels of n_fft 2048, hop 512, amplitudes, floor
  80 dB under the clip's peak), input against output waveform;
- convergence: spectral convergence, 20 log10(||output| - |input|| / ||input||) over STFT magnitudes; lower is better.

Rows: the codec; the oracle, whose bands are the true ones, through the same inversion and Griffin-Lim; and the STFT's
true magnitudes through Griffin-Lim alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae import level
from audiovae.audio import Audio
from audiovae.audio_folder import find_audio
from audiovae.codec import ITERATIONS, Codec
from audiovae.griffin_lim import griffin_lim

SECONDS = 10.0


def stft_magnitude(codec: Codec, waveform: Tensor) -> Tensor:
    config = codec.config.spectrogram
    window = torch.hann_window(config.n_fft)
    stft = torch.stft(
        waveform, config.n_fft, config.hop_length, window=window, pad_mode="constant", return_complex=True
    )
    return stft.abs()


def log_mel_db(magnitude: Tensor, mel_bank: Tensor) -> Tensor:
    return 20 * (mel_bank @ magnitude).clamp_min(1e-10).log10()


def figures(codec: Codec, target: Tensor, output: Tensor, mel_bank: Tensor) -> tuple[float, float]:
    """Error and convergence in dB."""
    true, made = stft_magnitude(codec, target), stft_magnitude(codec, output)
    target_db, output_db = log_mel_db(true, mel_bank), log_mel_db(made, mel_bank)
    floor = target_db.max() - 80
    error = (target_db.clamp_min(floor) - output_db.clamp_min(floor)).abs().mean()
    convergence = 20 * torch.log10((made - true).norm() / true.norm())
    return float(error), float(convergence)


def through_griffin_lim(codec: Codec, magnitude: Tensor, samples: int, quality: str) -> Tensor:
    hop = codec.config.spectrogram.hop_length
    waveform = griffin_lim(magnitude, hop_length=hop, iterations=ITERATIONS[quality])
    return torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))[:, :samples]


def paths(codec: Codec, quality: str) -> dict[str, Callable[[Audio], Tensor]]:
    """Ways from a clip to a clip."""

    def by_codec(clip: Audio) -> Tensor:
        return codec.decode(codec.encode(clip), quality=quality).waveform

    def by_true_bands(clip: Audio) -> Tensor:
        bands = codec.spectrogram(clip.waveform[None])[0]
        return through_griffin_lim(codec, codec.spectrogram.magnitude(bands), clip.samples, quality)

    def by_true_magnitudes(clip: Audio) -> Tensor:
        return through_griffin_lim(codec, stft_magnitude(codec, clip.waveform), clip.samples, quality)

    return {"codec": by_codec, "true bands": by_true_bands, "true magnitudes": by_true_magnitudes}


def load_clip(path: Path, rate: int, level_db: float) -> Audio:
    """The clip's first seconds, mono, at the model's rate and level."""
    clip = Audio.load(path).resample(rate)
    waveform = clip.waveform.mean(0, keepdim=True)[:, : int(SECONDS * rate)]
    measured_db = level.level_db(waveform)
    return replace(clip, waveform=waveform * 10 ** ((level_db - measured_db) / 20))


def measure(codec: Codec, folder: Path, clips: int, quality: str) -> dict[str, dict[str, float]]:
    config = codec.config.spectrogram
    mel_bank = torch.from_numpy(librosa.filters.mel(sr=config.sample_rate, n_fft=config.n_fft, n_mels=128))
    files = find_audio(folder)
    chosen = [files[int(i)] for i in np.linspace(0, len(files) - 1, min(clips, len(files))).round()]
    rows: dict[str, list[tuple[float, float]]] = {}
    for path in chosen:
        clip = load_clip(path, config.sample_rate, config.level_db)
        for name, way in paths(codec, quality).items():
            rows.setdefault(name, []).append(figures(codec, clip.waveform, way(clip), mel_bank))
    return {name: summary(np.array(values)) for name, values in rows.items()}


def summary(values: np.ndarray) -> dict[str, float]:
    """Means over clips, and half the width of their 95 % confidence interval."""
    mean, half = values.mean(0), 1.96 * values.std(0, ddof=1) / np.sqrt(len(values))
    return {
        "clips": len(values),
        "error_db": round(float(mean[0]), 2),
        "error_interval_db": round(float(half[0]), 2),
        "convergence_db": round(float(mean[1]), 2),
        "convergence_interval_db": round(float(half[1]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    codec = audiovae.load(arguments.checkpoint, device="cpu")
    rows = []
    for folder in arguments.folders:
        results = measure(codec, folder, arguments.clips, arguments.quality)
        corpus = f"{folder.parent.name}/{folder.name}, {results['codec']['clips']} clips"
        rows += [[corpus, name, *cells(row)] for name, row in results.items()]
    text = table(["held-out audio", "way", "log-mel error, dB", "spectral convergence, dB"], rows)
    print(text)
    if arguments.write:
        write_block(arguments.write, "reconstruction", text)


def cells(row: dict[str, float]) -> list[str]:
    return [f"{row[name + '_db']:.2f} ± {row[name + '_interval_db']:.2f}" for name in ("error", "convergence")]


if __name__ == "__main__":
    main()
