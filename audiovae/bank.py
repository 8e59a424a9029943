"""Triangular filters over the bins of an STFT: magnitudes to band amplitudes, and back."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from audiovae.looping import TINY, has_loops, pairs

INVERSION_UPDATES = 5
"""Multiplicative updates of the inversion; more bring nothing on music."""


class Bank(nn.Module):
    """Triangular filters: each bin lies in two neighbouring ones at most. Bins in none of them are silent.

    On a CPU, loops go over the two entries of each bin; elsewhere the filters are a matrix. Raises ValueError for
    filters of another form.
    """

    filters: Tensor
    column_sum: Tensor

    def __init__(self, filters: Float[Tensor, "n_bands bins"]) -> None:
        super().__init__()
        if len(filters) < 2:
            raise ValueError(f"bank: has {len(filters)} bands, must have at least 2")
        # They follow from the config, so neither is saved with the weights.
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("column_sum", filters.sum(0), persistent=False)
        first = filters.ne(0).int().argmax(0).clamp(max=len(filters) - 2).cummax(0).values
        lower, upper = filters.gather(0, first[None])[0], filters.gather(0, first[None] + 1)[0]
        if not torch.allclose(lower + upper, self.column_sum):
            raise ValueError("bank: a bin lies in more than two neighbouring bands")
        self._entries: tuple[np.ndarray, ...] = tuple(one.cpu().numpy() for one in (first.int(), lower, upper))
        self._low: dict[int, Bank] = {}
        shares = (one / (self.column_sum + TINY) for one in (lower, upper))
        self._shares: tuple[np.ndarray, ...] = tuple(one.cpu().numpy() for one in shares)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """For the loops: each bin's lower band, its weights in that and the next one, and their shares of its sum."""
        return (*self._entries, *self._shares)

    def of_low_bins(self, bins: int) -> "Bank":
        """The filters that lie wholly in the lowest ``bins``. Raises ValueError if there are fewer than two."""
        low = self._low.get(bins)
        if low is None or low.filters.device != self.filters.device:
            low = self._low[bins] = Bank(self.filters[~self.filters[:, bins:].any(1), :bins])
        return low

    def of_spectra(
        self, spectrum: Complex[Tensor, "*recordings frames bins"]
    ) -> Float[Tensor, "*recordings frames n_bands"]:
        """Band amplitudes of spectra."""
        if not has_loops(spectrum):
            return self.of_magnitudes(spectrum.abs())
        from audiovae import compiled  # numba is slow to import

        rows = spectrum.reshape(-1, spectrum.shape[-1])
        return self._filled(compiled.bands_of_spectra, pairs(rows), spectrum.shape)

    def of_magnitudes(
        self, magnitude: Float[Tensor, "*recordings frames bins"]
    ) -> Float[Tensor, "*recordings frames n_bands"]:
        """Band amplitudes of magnitudes."""
        if not has_loops(magnitude):
            return magnitude @ self.filters.mT
        from audiovae import compiled  # numba is slow to import

        rows = magnitude.reshape(-1, magnitude.shape[-1]).contiguous()
        return self._filled(compiled.bands_of_magnitudes, rows.numpy(), magnitude.shape)

    def _filled(self, loop: Any, rows: np.ndarray, shape: torch.Size) -> Float[Tensor, "*recordings frames n_bands"]:
        bands = self.filters.new_empty(len(rows), len(self.filters))
        loop(rows, *self._entries, bands.numpy())
        return bands.view(*shape[:-1], -1)

    def inverted(self, bands: Float[Tensor, "*batch n_bands frames"]) -> Float[Tensor, "*batch bins frames"]:
        """Magnitudes that have these bands, by non-negative multiplicative updates.

        The updates minimise the Kullback-Leibler divergence between given and resulting bands (Lee & Seung,
        2001), started from the transposed bank; five of them do as well as non-negative least squares here.
        """
        if has_loops(bands):
            from audiovae import compiled  # numba is slow to import

            images = bands.reshape(-1, *bands.shape[-2:]).contiguous()
            magnitude = images.new_empty(len(images), self.filters.shape[1], images.shape[2])
            for image, found in zip(images.numpy(), magnitude.numpy(), strict=True):
                compiled.invert_bands(image, *self.arrays, INVERSION_UPDATES, found)
            return magnitude.view(*bands.shape[:-2], *magnitude.shape[1:])
        magnitude = self.filters.mT @ bands
        for _ in range(INVERSION_UPDATES):
            magnitude = magnitude * self.gains(magnitude.mT, bands.mT).mT
        return magnitude

    def gains(
        self, moduli: Float[Tensor, "*recordings frames bins"], bands: Float[Tensor, "*recordings frames n_bands"]
    ) -> Float[Tensor, "*recordings frames bins"]:
        """What one update of the inversion multiplies the bins by."""
        ratio = bands / (moduli @ self.filters.mT + TINY)
        return ratio @ self.filters / (self.column_sum + TINY)
