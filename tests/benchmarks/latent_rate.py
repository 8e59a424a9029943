"""How long a latent frame should be, and what more values would buy: what PCA alone can tell.

    python tests/benchmarks/latent_rate.py CORPUS... [--files 90] [--write audiovae/assets/README.md]

CORPUS is a folder with `train` and `test` in it. PCA of log-band patches is fitted to files of `train`, with 8 channels
for each spectrogram frame of a patch, and codes files of `test`: mean absolute error of the log-bands in dB. Stretched:
codes are read at another speed, as `interpolate` does where clips have different lengths, and the result is compared
with the stretched spectrogram: a long frame blurs what it holds when it is stretched.

The second table keeps more components of the longest patches: error, and the Zimtohrli MOS (package zimtohrli) of the
sound that Griffin-Lim makes of them, beside that of the true bands.
"""

import argparse
import math
import random
from pathlib import Path
from statistics import mean

import soundfile
import torch
from document import table, write_block
from torch import Tensor

from audiovae.alignment import stretch
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.evaluation.perceptual import zimtohrli_mos
from audiovae.griffin_lim import griffin_lim
from audiovae.spectrogram import Spectrogram

FRAMES_TO_A_LATENT = (4, 8, 16)
CHANNELS_TO_A_FRAME = 8
TIMES_AS_MANY = (1, 2, 4, 8)
RATIOS = (1.0, 0.8, 1.25)
SECONDS = 20
HOP_FRAMES = 8
"""Patches to fit are this far apart."""
LEVEL = 0.1
"""Root mean square of every file: -20 dBFS."""


def sounds_of(corpora: list[Path], split: str, files: int, spectrogram: Spectrogram) -> list[tuple[Tensor, Tensor]]:
    """Waveforms and their spectrograms."""
    found = []
    for corpus in corpora:
        paths = sorted((corpus / split).glob("*.flac"))
        for path in random.Random(corpus.name).sample(paths, min(files, len(paths))):
            samples, rate = soundfile.read(path, dtype="float32", frames=SECONDS * 44100, always_2d=True)
            waveform = torch.from_numpy(samples).mean(1)
            if rate == spectrogram.config.sample_rate and waveform.square().mean().sqrt() > 1e-4:
                waveform *= LEVEL / waveform.square().mean().sqrt()
                found.append((waveform, spectrogram(waveform[None, None])[0, 0]))
    return found


def patches(spectrogram: Tensor, frames: int, hop: int) -> Tensor:
    return spectrogram.unfold(1, frames, hop).transpose(0, 1).flatten(1)


def fit(training: list[Tensor], frames: int) -> tuple[Tensor, Tensor]:
    """Mean and all components, the leading ones last."""
    rows = torch.cat([patches(one, frames, HOP_FRAMES) for one in training])
    middle = rows.mean(0)
    rows -= middle
    _, vectors = torch.linalg.eigh(rows.mT @ rows / len(rows))
    return middle, vectors


def mos(made: Tensor, waveform: Tensor, spectrogram: Spectrogram) -> float:
    """Of a spectrogram, by Griffin-Lim, beside the sound that it is of; both at one level."""
    hop = spectrogram.config.hop_length
    sound = griffin_lim(spectrogram.magnitude(made[None]), hop_length=hop, iterations=ITERATIONS["standard"])[0]
    samples = min(len(sound), len(waveform))
    sound, waveform = sound[:samples], waveform[:samples]
    sound = sound * (waveform.norm() / sound.norm())
    return zimtohrli_mos(waveform[None], sound[None], spectrogram.config.sample_rate)


def more_values(sounds: list[tuple[Tensor, Tensor]], middle: Tensor, vectors: Tensor, spectrogram: Spectrogram) -> str:
    """The second table, for sounds as waveform and spectrogram."""
    config, frames, rows = spectrogram.config, FRAMES_TO_A_LATENT[-1], []
    to_db = config.log_std * 20 / math.log(10)
    whole = [(waveform, bands[:, : bands.shape[1] // frames * frames]) for waveform, bands in sounds]
    for times in TIMES_AS_MANY:
        channels = times * CHANNELS_TO_A_FRAME * frames
        kept = vectors[:, -channels:]
        errors = [error(bands, middle, kept, frames, 1.0) * to_db for _, bands in whole]
        heard = [mos(decoded(bands, middle, kept, frames, 1.0), waveform, spectrogram) for waveform, bands in whole]
        values = channels * config.frame_rate / frames
        share = f"{config.sample_rate / values:.0f} times fewer than samples"
        rows.append([f"{values:.0f}, {share}", f"{mean(errors):.2f}", f"{mean(heard):.2f}"])
    heard = [mos(bands, waveform, spectrogram) for waveform, bands in whole]
    rows.append(["the bands themselves", "0.00", f"{mean(heard):.2f}"])
    return table(["values a second", "error, dB", "Zimtohrli MOS"], rows)


def decoded(spectrogram: Tensor, middle: Tensor, components: Tensor, frames: int, ratio: float) -> Tensor:
    """What comes back, after reading the codes ``ratio`` times as fast."""
    whole = spectrogram[:, : spectrogram.shape[1] // frames * frames]
    codes = (patches(whole, frames, frames) - middle) @ components
    count = int(whole.shape[1] / ratio) // frames
    codes = stretch(codes.mT[None], count, ratio=ratio)[0].mT
    return (codes @ components.mT + middle).unflatten(1, (-1, frames)).transpose(0, 1).flatten(1)


def error(spectrogram: Tensor, middle: Tensor, components: Tensor, frames: int, ratio: float) -> float:
    """In normalised units, beside the stretched spectrogram."""
    made = decoded(spectrogram, middle, components, frames, ratio)
    whole = spectrogram[:, : spectrogram.shape[1] // frames * frames]
    expected = stretch(whole[None], made.shape[1], ratio=ratio)[0]
    return float((made - expected).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--files", type=int, default=90)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    config = SpectrogramConfig()
    spectrogram, to_db = Spectrogram(config), config.log_std * 20 / math.log(10)
    rows = []
    with torch.inference_mode():
        training = [one for _, one in sounds_of(arguments.corpora, "train", arguments.files, spectrogram)]
        sounds = sounds_of(arguments.corpora, "test", max(1, arguments.files // 6), spectrogram)
        test = [one for _, one in sounds]
        for frames in FRAMES_TO_A_LATENT:
            middle, vectors = fit(training, frames)
            components = vectors[:, -CHANNELS_TO_A_FRAME * frames :]
            errors = [mean(error(one, middle, components, frames, ratio) for one in test) * to_db for ratio in RATIOS]
            rate = config.frame_rate / frames
            rows.append([str(CHANNELS_TO_A_FRAME * frames), f"{rate:.1f}", *(f"{one:.2f}" for one in errors)])
        more = more_values(sounds, middle, vectors, spectrogram)
    names = ["error, dB", *(f"stretched to {1 / ratio:g} times the length" for ratio in RATIOS[1:])]
    for name, text in (
        ("latent-rate", table(["latent channels", "latent frames a second", *names], rows)),
        ("latent-values", more),
    ):
        print(text)
        if arguments.write:
            write_block(arguments.write, name, text)


if __name__ == "__main__":
    main()
