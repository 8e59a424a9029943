"""What latents should hold: how long a frame, how many values, of which power of the bands. PCA alone can tell.

    python tests/benchmarks/latent_rate.py CORPUS... [--files 90] [--write audiovae/assets/README.md]

CORPUS is a folder with `train` and `test` in it. PCA of spectrogram patches is fitted to files of `train` and codes
files of `test`: mean absolute error of the bands in dB, and of the sound that Griffin-Lim makes of them spectral
convergence and the Zimtohrli MOS (package zimtohrli), at the level of the recording. The tables:

- `latent-rate`: patches of 2, 4 and 8 frames with as many values a second. Stretched: codes are read at another speed,
  as mixing must do without a model where clips have different lengths, and the result is compared with the stretched
  spectrogram.
- `latent-smoothing`: how much of an error is heard smoothed over bands; 0 is plain PCA.
- `latent-exponent`: powers that bands are raised to; one near 0 is a logarithm.
- `latent-values`: more and fewer components, and the bands themselves.
- `latent-kept`: the bundled model, of whose latents only the first channels are kept (`encode --latent-channels`).
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import soundfile
import torch
from document import table, write_block
from torch import Tensor

import audiovae
from audiovae.alignment import stretch
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.evaluation.perceptual import zimtohrli_mos
from audiovae.evaluation.reconstruction import spectral_convergence_db
from audiovae.griffin_lim import griffin_lim
from audiovae.model import principal_components
from audiovae.model.principal_components import PrincipalComponents
from audiovae.spectrogram import Spectrogram, mean_error_db

FRAMES = 4
"""Of the bundled model's patches."""
CHANNELS = 512
LENGTHS = (2, 4, 8)
SMOOTHINGS = (0.0, 0.35, 0.7, 0.9)
EXPONENTS = (0.05, 0.15, 0.25, 0.4, 1.0)
MORE_OR_FEWER = (32, 64, 128, 256, 384, 512, 768)
KEPT = (32, 64, 128, 256, 384, 512)
RATIOS = (1.0, 0.8, 1.25)
SECONDS = 20
HOP_FRAMES = 8
"""Patches to fit are this far apart."""
LEVEL = 0.1
"""Root mean square of every file: -20 dBFS."""
SOUND_HEADS = ["error, dB ↓", "spectral convergence, dB ↓", "Zimtohrli MOS ↑"]


def waveforms(corpora: Sequence[Path], split: str, files: int) -> list[Tensor]:
    found = []
    for corpus in corpora:
        paths = sorted((corpus / split).glob("*.flac"))
        for path in random.Random(corpus.name).sample(paths, min(files, len(paths))):
            samples, rate = soundfile.read(path, dtype="float32", frames=SECONDS * 44100, always_2d=True)
            waveform = torch.from_numpy(samples).mean(1)
            if rate == 44100 and waveform.square().mean().sqrt() > 1e-4:
                found.append(waveform * LEVEL / waveform.square().mean().sqrt())
    return found


@dataclass(frozen=True, eq=False)
class Pca:
    """All principal components of patches, as the model has them."""

    spectrogram: Spectrogram
    components: PrincipalComponents

    @classmethod
    def fit(cls, training: Sequence[Tensor], frames: int, spectrogram: Spectrogram) -> "Pca":
        n_bands = spectrogram.config.n_bands
        components = PrincipalComponents(n_bands, frames, n_bands * frames)
        images = (spectrogram(one[None, None])[0, 0] for one in training)
        rows = torch.cat([image.unfold(1, frames, HOP_FRAMES).transpose(0, 1).flatten(1) for image in images])
        middle = rows.mean(0)
        rows -= middle
        components.fit(rows.mT @ rows / len(rows), middle)
        return cls(spectrogram, components)

    def decoded(self, bands: Tensor, channels: int, ratio: float = 1.0) -> Tensor:
        """What comes back of the first components, after reading the codes ``ratio`` times as fast."""
        codes = self.components.encode(bands[None, None])
        codes[:, channels:] = 0
        codes = stretch(codes, int(codes.shape[2] / ratio), ratio=ratio)
        return self.components.decode(codes)[0, 0]


def heard(sounds: Sequence[Tensor], spectrogram: Spectrogram, code: Callable[[Tensor], Tensor]) -> list[str]:
    """Cells under SOUND_HEADS; ``code`` takes and gives a spectrogram of a multiple of ``FRAMES`` frames."""
    config, rows = spectrogram.config, []
    for waveform in sounds:
        bands = spectrogram(waveform[None, None])[0, 0]
        bands = bands[:, : bands.shape[1] // FRAMES * FRAMES]
        made = code(bands)
        magnitude = spectrogram.magnitude(made[None])
        settings = {"hop_length": config.hop_length, "iterations": ITERATIONS["standard"]}
        sound = griffin_lim(magnitude, **settings, bank=spectrogram.bank)[0]
        samples = min(len(sound), len(waveform))
        sound, target = sound[:samples], waveform[:samples]
        sound = sound * (target.norm() / sound.norm())
        both = target[None], sound[None]
        quality = zimtohrli_mos(*both, config.sample_rate)
        rows.append((float(mean_error_db(made, bands, config)), spectral_convergence_db(*both), quality))
    return [f"{mean(column):.2f}" for column in zip(*rows, strict=True)]


def lengths(sounds: Sequence[Tensor], training: Sequence[Tensor], config: SpectrogramConfig) -> str:
    """The table `latent-rate`."""
    rows = []
    for frames in LENGTHS:
        pca, channels = Pca.fit(training, frames, Spectrogram(config)), CHANNELS * frames // FRAMES
        errors = []
        for ratio in RATIOS:
            found = []
            for waveform in sounds:
                bands = pca.spectrogram(waveform[None, None])[0, 0]
                bands = bands[:, : bands.shape[1] // frames * frames]
                made = pca.decoded(bands, channels, ratio)
                expected = stretch(bands[None], made.shape[1], ratio=ratio)[0]
                found.append(float(mean_error_db(made, expected, config)))
            errors.append(f"{mean(found):.2f}")
        rows.append([str(channels), f"{config.frame_rate / frames:.1f}", *errors])
    names = ["error, dB ↓", *(f"stretched to {1 / ratio:g} times the length" for ratio in RATIOS[1:])]
    return table(["latent channels", "latent frames a second", *names], rows)


def smoothings(sounds: Sequence[Tensor], training: Sequence[Tensor], config: SpectrogramConfig) -> str:
    """The table `latent-smoothing`."""
    rows, usual = [], principal_components.SMOOTHING
    for share in SMOOTHINGS:
        principal_components.SMOOTHING = share
        pca = Pca.fit(training, FRAMES, Spectrogram(config))
        rows.append(
            [f"{share:g}", *heard(sounds, pca.spectrogram, lambda bands, pca=pca: pca.decoded(bands, CHANNELS))]
        )
    principal_components.SMOOTHING = usual
    return table(["share smoothed", *SOUND_HEADS], rows)


def exponents(sounds: Sequence[Tensor], training: Sequence[Tensor]) -> str:
    """The table `latent-exponent`."""
    rows = []
    for exponent in EXPONENTS:
        config = SpectrogramConfig(exponent=exponent, mean=0.0, std=1.0)
        pca = Pca.fit(training, FRAMES, Spectrogram(config))
        cells = heard(sounds, pca.spectrogram, lambda bands, pca=pca: pca.decoded(bands, CHANNELS))
        rows.append([str(exponent), *cells])
    return table(["exponent", *SOUND_HEADS], rows)


def values(sounds: Sequence[Tensor], training: Sequence[Tensor], config: SpectrogramConfig) -> str:
    """The table `latent-values`."""
    pca, rows = Pca.fit(training, FRAMES, Spectrogram(config)), []
    for channels in MORE_OR_FEWER:
        cells = heard(sounds, pca.spectrogram, lambda bands, kept=channels: pca.decoded(bands, kept))
        rows.append([_values(channels, config), *cells])
    bands = f"{config.n_bands * config.frame_rate:.0f}, the bands themselves"
    rows.append([bands, *heard(sounds, pca.spectrogram, lambda bands: bands)])
    return table(["values a second", *SOUND_HEADS], rows)


def kept(sounds: Sequence[Tensor]) -> str:
    """The table `latent-kept`."""
    codec, rows = audiovae.load(device="cpu"), []
    model, config = codec.checkpoint.model, codec.config.spectrogram

    def code(bands: Tensor, channels: int) -> Tensor:
        latents = model.encode(bands[None, None]).mean
        latents[:, channels:] = 0
        return model.decode(latents)[0, 0]

    for channels in KEPT:
        cells = heard(sounds, codec.spectrogram, lambda bands, kept=channels: code(bands, kept))
        rows.append([str(channels), _values(channels, config), *cells])
    return table(["channels kept", "values a second", *SOUND_HEADS], rows)


def _values(channels: int, config: SpectrogramConfig) -> str:
    count = channels * config.frame_rate / FRAMES
    return f"{count:.0f}, {config.sample_rate / count:.0f} times fewer than samples"


def from_command_line(description: str | None) -> tuple[list[Tensor], list[Tensor], Path | None]:
    """Waveforms to fit to, waveforms to measure, and the document for the tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--files", type=int, default=90)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    training = waveforms(arguments.corpora, "train", arguments.files)
    return training, waveforms(arguments.corpora, "test", max(1, arguments.files // 15)), arguments.write


def main() -> None:
    training, sounds, document = from_command_line(__doc__)
    config = SpectrogramConfig()
    with torch.inference_mode():
        tables = {
            "latent-kept": kept(sounds),
            "latent-values": values(sounds, training, config),
            "latent-smoothing": smoothings(sounds, training, config),
            "latent-exponent": exponents(sounds, training),
            "latent-rate": lengths(sounds, training, config),
        }
    for name, text in tables.items():
        print(text)
        if document:
            write_block(document, name, text)


if __name__ == "__main__":
    main()
