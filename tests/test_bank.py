"""Bands of magnitudes and back, by loops and by matrices."""

import pytest
import torch

from audiovae import looping
from audiovae.bank import Bank
from audiovae.config import SpectrogramConfig
from audiovae.spectrogram import band_bank

NARROW = torch.zeros(6, 9)
"""Bands of less than a bin, which leave bands without a lower bin, and bins that no band hears."""
NARROW[0, 1] = NARROW[3, 2] = NARROW[4, 5] = 1
NARROW[4, 2] = NARROW[5, 5] = 0.5
FILTERS = {
    "hybrid": band_bank(SpectrogramConfig()),
    "few": band_bank(SpectrogramConfig(n_bands=20)),
    "mel": band_bank(SpectrogramConfig(bank="mel", n_bands=128)),
    "narrow": NARROW,
}


@pytest.fixture(params=FILTERS)
def filters(request) -> torch.Tensor:
    return FILTERS[request.param]


def spectra(bins: int, frames: int = 150) -> torch.Tensor:
    return torch.randn(2, frames, bins, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("by_loops", [True, False])
def test_bands_are_the_matrix_product(filters, by_loops, monkeypatch):
    if not by_loops:
        monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    bank, spectrum = Bank(filters), spectra(filters.shape[1])
    expected = spectrum.abs() @ filters.mT
    torch.testing.assert_close(bank.of_spectra(spectrum), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bank.of_magnitudes(spectrum.abs()), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(bank.of_magnitudes(spectrum.abs().mT.contiguous().mT), expected, atol=1e-6, rtol=1e-5)


def test_loops_and_matrices_invert_alike(filters, monkeypatch):
    bank, magnitude = Bank(filters), spectra(filters.shape[1]).abs()
    bands = bank.of_magnitudes(magnitude).mT
    looped = bank.inverted(bands)
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    torch.testing.assert_close(bank.inverted(bands), looped, atol=1e-5, rtol=1e-3)
    assert looped.shape == magnitude.mT.shape


@pytest.mark.parametrize("frames", [1, 127, 128, 129])
def test_blocks_of_frames_do_not_show(frames):
    bank = Bank(FILTERS["hybrid"])
    bands = bank.of_magnitudes(spectra(1025, 130).abs()).mT
    assert torch.equal(bank.inverted(bands[..., :frames]), bank.inverted(bands)[..., :frames])


def test_the_inversion_has_the_bands_it_was_made_of():
    bank = Bank(FILTERS["hybrid"])
    bands = bank.of_magnitudes(spectra(1025).abs())
    again = bank.of_magnitudes(bank.inverted(bands.mT).mT)
    assert (again - bands).abs().mean() < 0.02 * bands.mean()


def test_gradients_pass():
    bank, magnitude = Bank(FILTERS["few"]), spectra(1025, 3).abs().requires_grad_()
    bank.inverted(bank.of_magnitudes(magnitude).mT).sum().backward()
    assert magnitude.grad is not None and magnitude.grad.abs().sum() > 0


def test_other_filters_are_refused():
    with pytest.raises(ValueError, match="a bin lies in more than two neighbouring bands"):
        Bank(torch.ones(3, 9))
    with pytest.raises(ValueError, match="bank: has 1 bands, must have at least 2"):
        Bank(torch.ones(1, 9))


@pytest.mark.gpu
def test_cuda_gives_the_cpus():
    filters = FILTERS["hybrid"]
    on_cpu, on_cuda, spectrum = Bank(filters), Bank(filters).to("cuda"), spectra(1025)
    bands = on_cpu.of_spectra(spectrum)
    torch.testing.assert_close(on_cuda.of_spectra(spectrum.cuda()).cpu(), bands, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(on_cuda.inverted(bands.mT.cuda()).cpu(), on_cpu.inverted(bands.mT), atol=1e-4, rtol=1e-3)
