"""MusiCNN (Pons & Serra, 2019, arXiv 1909.06654), a music tagger, as an embedding to measure Fréchet distances in.

The ``musicnn`` package ships its trained weights (ISC licence) for TensorFlow 1; here they run in torch. The package
itself is never imported, since it needs that TensorFlow, so that it is installed with ``pip install --no-deps``.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.audio import Audio
from audiovae.evaluation.log_mel import mel_bank, stft_magnitude
from audiovae.evaluation.tensor_bundle import read_bundle

TAGGER = "MSD_musicnn"
"""The one that was trained on the Million Song Dataset."""
SAMPLE_RATE, N_FFT, HOP_LENGTH, N_MELS = 16_000, 512, 256, 96
WINDOW_FRAMES = 3 * SAMPLE_RATE // HOP_LENGTH
WINDOW_HOP_FRAMES = WINDOW_FRAMES // 2
BATCH = 8
"""Windows at a time: each takes some 50 MB."""


def why_not_musicnn() -> str | None:
    """Why the embedding can't be had here; None where it can."""
    if _folder() is None:
        return "musicnn is not installed (pip install --no-deps musicnn: its weights are used, not its code)"
    return None


def embed(waveform: Float[Tensor, "1 samples"], sample_rate: int) -> Float[Tensor, "windows 200"]:
    """The last hidden layer for each 3 s (half overlapping; a shorter sound is one window, padded with silence)."""
    heard = Audio(waveform, sample_rate).resample(SAMPLE_RATE).waveform
    power = stft_magnitude(heard, n_fft=N_FFT, hop_length=HOP_LENGTH)[0].square()
    bank = mel_bank(sample_rate=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS)
    log_mel = (10_000 * bank @ power + 1).log10().mT
    log_mel = functional.pad(log_mel, (0, 0, 0, max(0, WINDOW_FRAMES - len(log_mel))))
    windows = log_mel.unfold(0, WINDOW_FRAMES, WINDOW_HOP_FRAMES).mT
    with torch.inference_mode():
        return torch.cat([_network()(some) for some in windows.split(BATCH)])


class MusiCNN:
    """The network up to its last hidden layer, from the weights of the TensorFlow graph."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        scope = next(name for name in weights if name.endswith("conv2d/kernel") and "Adam" not in name)
        self.weights, self.scope = weights, scope.removesuffix("conv2d/kernel")

    def __call__(self, log_mel: Float[Tensor, "batch frames 96"]) -> Float[Tensor, "batch 200"]:
        image = self._normalise(log_mel[:, None], 0)
        frames = torch.cat([self._front(image, index) for index in range(5)], dim=1)
        layers = [frames]
        for index in range(3):
            columns = functional.pad(layers[-1].mT[:, None], (0, 0, 3, 3))
            hidden = self._normalise(self._convolve(columns, 5 + index), 6 + index)[..., 0]
            layers.append(hidden if index == 0 else hidden + layers[-1])
        found = torch.cat(layers, dim=1)
        # TensorFlow flattens channels first, with maximum and mean of each side by side.
        pooled = self._normalise(torch.stack([found.amax(2), found.mean(2)], dim=2).flatten(1), 9)
        hidden = pooled @ self._weight("dense", 0, "kernel") + self._weight("dense", 0, "bias")
        return self._normalise(hidden.relu(), 10)

    def _front(self, image: Float[Tensor, "batch 1 frames 96"], index: int) -> Float[Tensor, "batch channels frames"]:
        """Two banks of filters for timbre (7 frames wide, most bands high) and three for rhythm (one band high)."""
        kernel = 7 if index < 2 else self._weight("conv2d", index, "kernel").shape[0]
        padded = functional.pad(image, (0, 0, (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2))
        return self._normalise(self._convolve(padded, index), 1 + index).amax(3)

    def _convolve(self, image: Tensor, index: int) -> Tensor:
        kernel = self._weight("conv2d", index, "kernel").permute(3, 2, 0, 1)
        return functional.conv2d(image, kernel, self._weight("conv2d", index, "bias")).relu()

    def _normalise(self, x: Tensor, index: int) -> Tensor:
        """Batch norm with the statistics of training, over the second dimension."""
        names = ("moving_mean", "moving_variance", "gamma", "beta")
        mean, variance, gamma, beta = (self._weight("batch_normalization", index, name) for name in names)
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)

    def _weight(self, layer: str, index: int, name: str) -> Tensor:
        return self.weights[f"{self.scope}{layer}{f'_{index}' if index else ''}/{name}"]


def _folder() -> Path | None:
    spec = find_spec("musicnn")
    places = [] if spec is None else [Path(place) / TAGGER for place in spec.submodule_search_locations or ()]
    return next((place for place in places if place.is_dir()), None)


@cache
def _network() -> MusiCNN:
    folder = _folder()
    assert folder is not None, "ask why_not_musicnn first"
    return MusiCNN(read_bundle((folder / ".index").read_bytes(), (folder / ".data-00000-of-00001").read_bytes()))
