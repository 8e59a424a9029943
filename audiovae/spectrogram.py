"""Waveform to normalised spectrogram of compressed bands, and bands back to linear STFT magnitudes."""

import functools
import math

import numpy as np
import torch
import torchaudio
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from audiovae.bank import Bank
from audiovae.config import SpectrogramConfig

BLOCK_FRAMES = 64
"""Frames that a CPU analyses at a time: their spectra (0.5 MB) stay in its cache."""
FLOOR = 1e-5
"""Amplitude that levels in dB start from: 100 dB below full scale, which nobody hears at a level of -20 dBFS."""
NEXT_TO_HZ = 0.01
"""Between the centres of bands that share one bin."""
SMALLEST, LARGEST = 1e-9, 100.0
"""Amplitudes between which all music lies; as limits they keep gradients and an untrained model's output finite."""


class Spectrogram(nn.Module):
    """Magnitudes in triangular bands, raised to a small power, normalised by the constants of the config.

    The power is near the logarithm where music is loud and ends at 0 in silence, where a logarithm falls without end:
    fewer latent values are spent on what nobody hears.

    Frames are centred on multiples of ``hop_length`` and the waveform is taken to be zero outside, as in
    ``torch.stft(center=True, pad_mode="constant")``, so a waveform has ``1 + samples // hop_length`` frames.
    Magnitudes are in units of amplitude: a full-scale sine has about 1 in its bin.
    """

    window: Tensor
    uneven_power: Tensor

    def __init__(self, config: SpectrogramConfig) -> None:
        super().__init__()
        self.config = config
        bank = band_bank(config)
        self.bank = Bank(bank)
        # They follow from the config, so neither is saved with the weights.
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("uneven_power", _uneven_power(bank), persistent=False)

    @property
    def full_scale(self) -> float:
        """STFT magnitude of a full-scale sine on a bin: half the window's sum."""
        return self.config.n_fft / 4

    def forward(
        self, waveform: Float[Tensor, "batch channels samples"], *, center: bool = True
    ) -> Float[Tensor, "batch channels n_bands frames"]:
        """Analyses a waveform; with ``center=False`` it already holds ``n_fft // 2`` samples of context at its ends."""
        pad = self.config.n_fft // 2 if center else 0
        rows = functional.pad(waveform.flatten(0, 1), (pad, pad))
        return self.at_pitch(rows, self.config.n_fft).unflatten(0, waveform.shape[:2])

    def at_pitch(self, waveform: Float[Tensor, "rows samples"], n_fft: int) -> Float[Tensor, "rows n_bands frames"]:
        """Analyses a waveform as it sounds when it is played ``n_fft / config.n_fft`` times as fast.

        A tone that is played faster has fewer samples to a period. Analysed by a window that is longer by as much, it
        comes into the bin that it would have come into, so no sample has to be made up between those there are.
        Windows are as much further apart. The waveform holds the context at its ends, half a window each.
        """
        analyse = self._bands_by_blocks if waveform.device.type == "cpu" else self._bands
        return self.normalise(analyse(waveform, n_fft).mT.contiguous() / (n_fft / 4))

    def _bands(self, waveform: Float[Tensor, "rows samples"], n_fft: int) -> Float[Tensor, "rows frames n_bands"]:
        """Band amplitudes of all frames with a whole window."""
        window, hop_length = self._window(n_fft), hop_length_at(n_fft, self.config)
        stft = torch.stft(waveform, n_fft, hop_length, window=window, center=False, return_complex=True)
        return self.bank.of_spectra(self._fitted(stft.mT))

    def _bands_by_blocks(
        self, waveform: Float[Tensor, "rows samples"], n_fft: int
    ) -> Float[Tensor, "rows frames n_bands"]:
        """The same, faster on a CPU: a block's spectra stay in its cache, a whole recording's go through memory."""
        window, frames = self._window(n_fft), waveform.unfold(-1, n_fft, hop_length_at(n_fft, self.config))
        rows = []
        for row in frames:
            spectra = (torch.fft.rfft(block * window) for block in row.split(BLOCK_FRAMES))
            rows.append(torch.cat([self.bank.of_spectra(self._fitted(spectrum)) for spectrum in spectra]))
        return torch.stack(rows)

    def _window(self, n_fft: int) -> Float[Tensor, " n_fft"]:
        return self.window if n_fft == self.config.n_fft else torch.hann_window(n_fft, device=self.window.device)

    def _fitted(self, spectrum: Complex[Tensor, "*batch frames own_bins"]) -> Complex[Tensor, "*batch frames bins"]:
        """Cut or padded to the model's bins: playing faster lifts some above the top, slower leaves the top empty."""
        bins = self.config.n_bins
        missing = bins - spectrum.shape[-1]
        return spectrum[..., :bins] if missing <= 0 else functional.pad(spectrum, (0, missing))

    def to_bands(self, magnitude: Float[Tensor, "*batch bins frames"]) -> Float[Tensor, "*batch n_bands frames"]:
        """STFT magnitudes to linear band amplitudes."""
        return self.bank.of_magnitudes(magnitude.mT).mT / self.full_scale

    def normalise(self, bands: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Linear band amplitudes to the model's input."""
        return (bands.clamp_min(SMALLEST).pow(self.config.exponent) - self.config.mean) / self.config.std

    def denormalise(self, spectrogram: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The model's output to linear band amplitudes, never negative."""
        return amplitude(spectrogram, self.config)

    def magnitude(self, spectrogram: Float[Tensor, "*batch n_bands frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Linear STFT magnitudes that have this spectrogram (see ``Bank.inverted``)."""
        return self.bank.inverted(self.denormalise(spectrogram) * self.full_scale)

    def frame_power(self, magnitude: Float[Tensor, "channels bins frames"]) -> Float[Tensor, " frames"]:
        """Mean power under each frame, over the channels, of waveforms whose bands these inverted magnitudes have.

        By Parseval's theorem, and a correction: the inversion gives the bins of a wide band equal magnitudes, while in
        sounds they differ. So noise of the same band amplitudes has up to 4/pi (1 dB) more power.
        """
        n_fft = self.config.n_fft
        power = magnitude.square() * self.uneven_power
        energy = 2 * power.sum(1) - power[:, 0] - power[:, -1]
        # The mean square of a Hann window is 3/8.
        return energy.mean(0) / (n_fft**2 * 3 / 8)


def hop_length_at(n_fft: int, config: SpectrogramConfig) -> int:
    """Samples from one window to the next where a waveform is played ``n_fft / config.n_fft`` times as fast."""
    return max(1, round(config.hop_length * n_fft / config.n_fft))


def _uneven_power(bank: Float[Tensor, "n_bands bins"]) -> Float[Tensor, "bins 1"]:
    """Power of noise in each bin, as a multiple of the squared mean amplitude of its bands' bins.

    The mean of n Rayleigh amplitudes A has E[mean^2] = E[A]^2 (1 + (4/pi - 1) / n), and E[A^2] = 4/pi E[A]^2.
    """
    bins = bank.sum(1).square() / bank.square().sum(1).clamp_min(1e-12)
    of_bands = 4 / math.pi / (1 + (4 / math.pi - 1) / bins.clamp_min(1))
    return ((bank.mT @ of_bands) / bank.sum(0).clamp_min(1e-12))[:, None]


def band_bank(config: SpectrogramConfig) -> Float[Tensor, "n_bands bins"]:
    """The triangular filters that turn STFT bins into bands."""
    if config.bank == "mel":
        return torchaudio.functional.melscale_fbanks(
            config.n_bins,
            config.f_min,
            config.f_max,
            config.n_bands,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        ).T.contiguous()
    return _triangles(hybrid_edges(config), config.n_bins)


@functools.cache
def band_centres_hz(config: SpectrogramConfig) -> Float[Tensor, " n_bands"]:
    """Centre of gravity of each band, rising; of one so narrow that it has no bin of its own, next to that below it."""
    bank = band_bank(config).double()
    bins_hz = torch.arange(config.n_bins).double() * config.sample_rate / config.n_fft
    centres = (bank @ bins_hz) / bank.sum(1).clamp_min(1e-12)
    centres = centres.cummax(0).values
    alike = torch.arange(len(centres)) - torch.searchsorted(centres, centres)
    return (centres + NEXT_TO_HZ * alike).float()


def hybrid_edges(config: SpectrogramConfig) -> np.ndarray:
    """Corners of the hybrid bank's triangles, in bins, ``n_bands + 2`` of them.

    Neighbours are ``max(1, c * bin)`` apart: one bin where the ear is finer than the STFT, a constant ratio
    above. The ratio c is found by bisection, so that the last corner falls on ``f_max``.
    """
    bin_hz = config.sample_rate / config.n_fft
    first, last = config.f_min / bin_hz, config.f_max / bin_hz
    low, high = 0.0, 1.0
    for _ in range(60):
        ratio = (low + high) / 2
        low, high = (ratio, high) if _edges(first, ratio, config.n_bands)[-1] < last else (low, ratio)
    return _edges(first, high, config.n_bands)


def _edges(first: float, ratio: float, n_bands: int) -> np.ndarray:
    edges = [first]
    for _ in range(n_bands + 1):
        edges.append(min(edges[-1] + max(1.0, ratio * edges[-1]), 1e9))
    return np.array(edges)


def _triangles(edges: np.ndarray, n_bins: int) -> Float[Tensor, "n_bands bins"]:
    bins = np.arange(n_bins)[None, :]
    left, centre, right = (edges[i : len(edges) - 2 + i, None] for i in range(3))
    filters = np.clip(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0.0, None)
    # Each sums to one: noise keeps its level across bands, whatever their width.
    return torch.from_numpy((filters / filters.sum(1, keepdims=True)).astype(np.float32))


def amplitude(spectrogram: Float[Tensor, "*shape"], config: SpectrogramConfig) -> Float[Tensor, "*shape"]:
    """A normalised spectrogram's linear band amplitudes, never negative."""
    compressed = spectrogram * config.std + config.mean
    return compressed.clamp(0.0, LARGEST**config.exponent).pow(1 / config.exponent)


def magnitude_db(spectrogram: Float[Tensor, "*shape"], config: SpectrogramConfig) -> Float[Tensor, "*shape"]:
    """A normalised spectrogram in dB relative to full scale, from the floor on, for pictures and measures."""
    return 20 * (amplitude(spectrogram, config) + FLOOR).log10()


def mean_error_db(
    reconstruction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], config: SpectrogramConfig
) -> Float[Tensor, ""]:
    """Mean absolute difference of two normalised spectrograms in dB."""
    return (magnitude_db(reconstruction, config) - magnitude_db(target, config)).abs().mean()
