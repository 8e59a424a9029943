"""How many bands the encoder should see and the decoder give, at equal numbers of latent values. PCA alone can tell.

    python tests/benchmarks/bands_out.py CORPUS... [--files 90] [--write audiovae/assets/README.md]

CORPUS is a folder with `train` and `test` in it. The latents are components of 256 bands, as the bundled model's, or
equally many of 512. What comes out is 256 bands, 512, or the STFT's linear magnitudes, all compressed alike. It is
regressed on the latents over files of `train`, and turned into sound on files of `test` by Griffin-Lim at the quality
standard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from document import table, write_block
from latent_rate import CHANNELS, FRAMES, Pca, from_command_line
from torch import Tensor

from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.perceptual import zimtohrli_mos
from audiovae.evaluation.reconstruction import log_mel_error_db, spectral_convergence_db
from audiovae.griffin_lim import griffin_lim
from audiovae.model import principal_components
from audiovae.spectrogram import Spectrogram

MORE = 512
RIDGE = 1e-6
HEADS = ["bands in", "bands out", "log-mel error, dB ↓", "spectral convergence, dB ↓", "Zimtohrli MOS ↑"]


@dataclass(frozen=True, eq=False)
class Picture:
    """Compressed bands of a waveform, or, without bands, its compressed STFT magnitudes; and back."""

    spectrogram: Spectrogram
    linear: bool = False

    def of(self, waveform: Tensor) -> Tensor:
        if not self.linear:
            image = self.spectrogram(waveform[None, None])[0, 0]
        else:
            image = self.spectrogram.normalise(stft_magnitude(waveform[None])[0] / self.spectrogram.full_scale)
        return image[:, : image.shape[1] // FRAMES * FRAMES]

    def sound(self, image: Tensor) -> Tensor:
        settings = {"hop_length": self.spectrogram.config.hop_length, "iterations": ITERATIONS["standard"]}
        if not self.linear:
            magnitude = self.spectrogram.magnitude(image[None])
            return griffin_lim(magnitude, **settings, bank=self.spectrogram.bank)[0]
        return griffin_lim(self.spectrogram.denormalise(image)[None] * self.spectrogram.full_scale, **settings)[0]


def codes(pca: Pca, image: Tensor) -> Tensor:
    """With a column of ones, for the regression's constant."""
    found = pca.components.encode(image[None, None])[0, :CHANNELS]
    return torch.cat([found, torch.ones(1, found.shape[1])]).mT


def patches(image: Tensor) -> Tensor:
    return image.unfold(1, FRAMES, FRAMES).transpose(0, 1).flatten(1)


def regression(pca: Pca, seen: Picture, given: Picture, training: Sequence[Tensor]) -> Tensor:
    """Patches of what is given on codes of what is seen."""
    size = CHANNELS + 1
    gram, products = torch.zeros(size, size, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for waveform in training:
        rows = codes(pca, seen.of(waveform)).double()
        gram += rows.mT @ rows
        products = products + rows.mT @ patches(given.of(waveform)).double()
    return torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(size), products).float()


def measured(sounds: Sequence[Tensor], made: Sequence[Tensor], sample_rate: int) -> list[str]:
    rows = []
    for target, sound in zip(sounds, made, strict=True):
        samples = min(len(sound), len(target))
        scale = target[:samples].norm() / sound[:samples].norm()
        both = target[None, :samples], sound[None, :samples] * scale
        errors = log_mel_error_db(*both, sample_rate), spectral_convergence_db(*both)
        rows.append((*errors, zimtohrli_mos(*both, sample_rate)))
    return [f"{mean(column):.2f}" for column in zip(*rows, strict=True)]


def bands(sounds: Sequence[Tensor], training: Sequence[Tensor], config: SpectrogramConfig) -> str:
    """The table `bands-out`."""
    fewer, more = Spectrogram(config), Spectrogram(config.model_copy(update={"n_bands": MORE}))
    pictures = {"256": Picture(fewer), "512": Picture(more), "linear magnitudes": Picture(fewer, linear=True)}
    usual = principal_components.SMOOTHING_BANDS
    rows = []
    for seen, wanted in (("256", ("256", "512", "linear magnitudes")), ("512", ("512",))):
        principal_components.SMOOTHING_BANDS = usual * int(seen) / config.n_bands  # as many Hz
        pca = Pca.fit(training, FRAMES, pictures[seen].spectrogram)
        for name in wanted:
            weights = regression(pca, pictures[seen], pictures[name], training)
            made = [_decoded(pca, weights, pictures[seen], pictures[name], one) for one in sounds]
            rows.append([seen, name, *measured(sounds, made, config.sample_rate)])
    principal_components.SMOOTHING_BANDS = usual
    for name, picture in pictures.items():
        made = [picture.sound(picture.of(one)) for one in sounds]
        rows.append(["themselves", name, *measured(sounds, made, config.sample_rate)])
    return table(HEADS, rows)


def _decoded(pca: Pca, weights: Tensor, seen: Picture, given: Picture, waveform: Tensor) -> Tensor:
    rows = codes(pca, seen.of(waveform)) @ weights
    return given.sound(rows.unflatten(1, (-1, FRAMES)).transpose(0, 1).flatten(1))


def main() -> None:
    training, sounds, document = from_command_line(__doc__)
    with torch.inference_mode():
        text = bands(sounds, training, SpectrogramConfig())
    print(text)
    if document:
        write_block(document, "bands-out", text)


if __name__ == "__main__":
    main()
