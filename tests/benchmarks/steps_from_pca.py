"""From the lecture's PCA to the bundled model: what each step brings, at the same number of latent values.

    python tests/benchmarks/steps_from_pca.py CORPUS... [--files 90] [--write audiovae/assets/README.md]

CORPUS is a folder with `train` and `test` in it. It begins with plain PCA of log-mel segments, each a latent frame
long: half the components of 256 mels, or 128 mels, whose every value is kept. PCA is fitted to files of `train`;
sounds of files of `test` go through each way and its own band inversion and Griffin-Lim, at the quality standard.
"""

from collections.abc import Callable, Sequence

import torch
from bands_out import measured
from document import table, write_block
from latent_rate import CHANNELS, FRAMES, Pca, from_command_line
from torch import Tensor

import audiovae
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.griffin_lim import griffin_lim
from audiovae.model import principal_components
from audiovae.spectrogram import FLOOR, LARGEST, Spectrogram

HEADS = ["way", "log-mel error, dB ↓", "spectral convergence, dB ↓", "Zimtohrli MOS ↑"]


class LogSpectrogram(Spectrogram):
    """Bands in dB, from the floor on. Mel filters are of unit area: here they too are of unit sum."""

    def normalise(self, bands: Tensor) -> Tensor:
        return 20 * (bands / self._sums()).clamp_min(FLOOR).log10()

    def denormalise(self, spectrogram: Tensor) -> Tensor:
        amplitude = 10 ** (spectrogram / 20)
        return torch.where(amplitude > FLOOR, amplitude, 0.0).clamp_max(LARGEST) * self._sums()

    def _sums(self) -> Tensor:
        return self.bank.filters.sum(1).clamp_min(FLOOR)[:, None]


def heard(sounds: Sequence[Tensor], spectrogram: Spectrogram, code: Callable[[Tensor], Tensor]) -> list[str]:
    """Cells under HEADS; ``code`` takes and gives a spectrogram of whole latent frames."""
    made = []
    for waveform in sounds:
        image = spectrogram(waveform[None, None])[0, 0]
        magnitude = spectrogram.magnitude(code(image[:, : image.shape[1] // FRAMES * FRAMES])[None])
        settings = {"hop_length": spectrogram.config.hop_length, "iterations": ITERATIONS["standard"]}
        made.append(griffin_lim(magnitude, **settings, bank=spectrogram.bank)[0])
    return measured(sounds, made, spectrogram.config.sample_rate)


def by_pca(
    sounds: Sequence[Tensor], training: Sequence[Tensor], spectrogram: Spectrogram, smoothing: float
) -> list[str]:
    usual = principal_components.SMOOTHING
    principal_components.SMOOTHING = smoothing
    pca = Pca.fit(training, FRAMES, spectrogram)
    principal_components.SMOOTHING = usual
    return heard(sounds, spectrogram, lambda image: pca.decoded(image, CHANNELS))


def main() -> None:
    training, sounds, document = from_command_line(__doc__)
    codec = audiovae.load(device="cpu")
    config, model = codec.config.spectrogram, codec.checkpoint.model
    hybrid, mels = Spectrogram(config), {count: SpectrogramConfig(bank="mel", n_bands=count) for count in (128, 256)}
    with torch.inference_mode():
        rows = {
            f"PCA of segments of {count} log-mel bands": by_pca(sounds, training, LogSpectrogram(mel), 0.0)
            for count, mel in mels.items()
        } | {
            "bands no narrower than a bin, instead of mels": by_pca(sounds, training, LogSpectrogram(config), 0.0),
            f"their power of {config.exponent:g}, instead of dB": by_pca(sounds, training, hybrid, 0.0),
            "errors weighted as heard": by_pca(sounds, training, hybrid, principal_components.SMOOTHING),
            "and the network: the bundled model": heard(
                sounds, hybrid, lambda image: model.decode(model.encode(image[None, None]).mean)[0, 0]
            ),
            "true bands": heard(sounds, hybrid, lambda image: image),
            "true mel bands, 256": heard(sounds, LogSpectrogram(mels[256]), lambda image: image),
        }
    text = table(HEADS, [[name, *cells] for name, cells in rows.items()])
    print(text)
    if document:
        write_block(document, "steps-from-pca", text)


if __name__ == "__main__":
    main()
