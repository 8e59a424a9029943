"""Losses with answers known by hand."""

import math

import pytest
import torch

from audiovae.config import SpectrogramConfig, TrainingConfig
from audiovae.model.posterior import Posterior
from audiovae.spectrogram import Spectrogram
from audiovae.training.losses import (
    Losses,
    difference_loss,
    heard,
    log_loss,
    mel_error_db,
    multi_resolution_loss,
    spectral_convergence,
    training_losses,
)

TRAINING = TrainingConfig(
    free_bits=0.1, difference_weight=0.5, convergence_weight=0.1, multi_resolution_weight=0.2, log_weight=0.3
)


@pytest.fixture(scope="module")
def spectrogram() -> Spectrogram:
    return Spectrogram(SpectrogramConfig(n_bands=32))


@pytest.fixture
def target() -> torch.Tensor:
    return torch.randn(2, 1, 32, 16, generator=torch.Generator().manual_seed(0))


def losses_of(reconstruction, target, posterior, spectrogram, *, beta: float = 0.01) -> Losses:
    return training_losses(
        reconstruction, target, posterior, beta=beta, training=TRAINING, spectrogram=spectrogram
    )  # fmt: skip


def standard_posterior(channels: int = 4) -> Posterior:
    return Posterior(torch.zeros(2, channels, 3), torch.zeros(2, channels, 3))


def test_a_perfect_reconstruction_costs_nothing_but_the_free_bits(spectrogram, target) -> None:
    losses = losses_of(target, target, standard_posterior(), spectrogram)
    parts = losses.level, losses.difference, losses.convergence, losses.multi_resolution, losses.log, losses.kl
    assert all(part == 0 for part in parts)
    assert float(losses.total) == pytest.approx(0.01 * 4 * 0.1)


def test_a_constant_error_costs_its_size_and_has_no_differences(spectrogram, target) -> None:
    losses = losses_of(target + 0.25, target, None, spectrogram)
    assert float(losses.level) == pytest.approx(0.25, abs=1e-6)
    assert float(losses.difference) == pytest.approx(0, abs=1e-6)


def test_the_total_is_the_weighted_sum_of_its_parts(spectrogram, target) -> None:
    posterior = Posterior(torch.ones(2, 4, 3), torch.zeros(2, 4, 3))
    losses = losses_of(target * 0.9, target, posterior, spectrogram)
    parts = losses.level + 0.5 * losses.difference + 0.1 * losses.convergence + 0.2 * losses.multi_resolution
    parts = parts + 0.3 * losses.log
    torch.testing.assert_close(losses.total, parts + 0.01 * losses.kl)


def test_difference_of_one_wrong_frame() -> None:
    target = torch.zeros(1, 1, 4, 5)
    reconstruction = target.clone()
    reconstruction[..., 2] = 1.0  # two of the four steps along time are off by one, none of those along bands
    assert float(difference_loss(reconstruction - target)) == pytest.approx(0.5 * (2 / 4))


def test_spectral_convergence_of_a_doubled_magnitude_is_one_and_of_silence_too() -> None:
    magnitude = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    assert float(spectral_convergence(2 * magnitude, magnitude)) == pytest.approx(1)
    assert float(spectral_convergence(torch.zeros_like(magnitude), magnitude)) == pytest.approx(1)


def test_spectral_convergence_of_a_silent_target_stays_finite() -> None:
    silence = torch.zeros(1, 4, 4, requires_grad=True)
    loss = spectral_convergence(silence, torch.zeros(1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert silence.grad is not None and silence.grad.isfinite().all()


def test_multi_resolution_of_a_changed_level_is_that_change(spectrogram) -> None:
    bands = torch.full((2, 1, 32, 16), 0.1)
    power, std = spectrogram.config.exponent, spectrogram.config.std
    change = (0.2**power - 0.1**power) / std
    assert float(multi_resolution_loss(2 * bands, bands, spectrogram)) == pytest.approx(change, rel=1e-3)


def test_multi_resolution_minds_a_near_place_less_than_a_far_one(spectrogram) -> None:
    """Which the plain error does not: a partial that is one band off is as wrong there as one eight bands off."""
    shifts = {}
    for shift in (1, 8):
        true, made = torch.zeros(1, 1, 32, 16), torch.zeros(1, 1, 32, 16)
        true[:, :, [3, 17]] = made[:, :, [3 + shift, 17 + shift]] = 0.1
        shifts[shift] = float(multi_resolution_loss(made, true, spectrogram))
    assert 0 < shifts[1] < 0.5 * shifts[8]


def test_multi_resolution_asks_for_the_strength_of_peaks_that_a_blur_loses(spectrogram) -> None:
    """About the geometric mean of loud and soft is the blur that the plain error likes best."""
    checkers = torch.arange(32)[:, None].add(torch.arange(16)).remainder(2)[None, None].bool()
    true = torch.where(checkers, 0.1, 0.001)
    blur, moved = torch.full_like(true, 0.01), torch.where(checkers, 0.001, 0.1)
    assert float(multi_resolution_loss(moved, true, spectrogram)) == pytest.approx(0, abs=1e-5)
    power, std = spectrogram.config.exponent, spectrogram.config.std
    lost = (((0.1 + 0.001) / 2) ** power - 0.01**power) / std
    assert float(multi_resolution_loss(blur, true, spectrogram)) == pytest.approx(lost, rel=1e-2)


def test_multi_resolution_takes_what_its_squares_do_not_divide(spectrogram) -> None:
    bands = torch.full((1, 1, 5, 3), 0.1)
    assert float(multi_resolution_loss(bands, bands, spectrogram)) == 0


def test_what_is_heard_of_an_error_is_less_where_neighbours_have_it_the_other_way_round() -> None:
    alike, alternating = torch.ones(1, 1, 32, 4), torch.ones(1, 1, 32, 4)
    alternating[:, :, ::2] = -1
    torch.testing.assert_close(heard(alike, 0.7), alike)
    assert torch.equal(heard(alternating, 0.0), alternating)
    assert float(heard(alternating, 0.7)[:, :, 8:24].abs().max()) < 0.35


def test_the_logarithmic_loss_counts_soft_bands_as_loud_ones(spectrogram) -> None:
    """6 dB too loud in the lower or in the upper half: half of the mels are wrong, and a little of those between."""
    true = torch.full((1, 1, 32, 4), 1.0)
    true[:, :, 16:] = 0.01
    wrong = []
    for half in (slice(16), slice(16, 32)):
        louder = true.clone()
        louder[:, :, half] *= 10 ** (6 / 20)
        wrong.append(float(log_loss(louder, true, spectrogram)))
    assert sum(wrong) == pytest.approx(6 / 20, rel=0.03)
    made = true * 10 ** (6 / 20)
    assert mel_error_db(*map(spectrogram.normalise, (made, true)), spectrogram) == pytest.approx(6, rel=0.01)
    assert log_loss(true, true, spectrogram) == 0


def test_the_logarithmic_loss_hears_mels_and_not_what_lies_in_them() -> None:
    """A partial that is one of 256 bands off is nearly as right as none is wrong; to the plain error it is not."""
    spectrogram = Spectrogram(SpectrogramConfig(n_bands=256, bank="hybrid"))
    true = torch.full((1, 1, 256, 4), 1e-3)
    near, far = true.clone(), true.clone()
    for one, band in ((true, 200), (near, 201), (far, 220)):
        one[:, :, band] = 0.1
    assert float(log_loss(near, true, spectrogram)) < 0.35 * float(log_loss(far, true, spectrogram))
    assert float((near - true).abs().mean()) == pytest.approx(float((far - true).abs().mean()))


def test_kl_is_summed_over_channels_and_averaged_over_batch_and_frames(spectrogram, target) -> None:
    mean = torch.zeros(2, 4, 3)
    mean[:, 1] = 2.0  # KL of N(2, 1) is 2 nats
    mean[0, 3] = 2.0  # in half the batch: 1 nat
    losses = losses_of(target, target, Posterior(mean, torch.zeros_like(mean)), spectrogram)
    torch.testing.assert_close(losses.channel_kl, torch.tensor([0.0, 2.0, 0.0, 1.0]))
    assert float(losses.kl) == pytest.approx(3)


def test_below_the_free_bits_the_kl_has_no_gradient_above_it_has(spectrogram, target) -> None:
    mean = torch.tensor([0.1, 2.0])[None, :, None].repeat(2, 1, 3).requires_grad_()  # 0.005 and 2 nats
    losses = losses_of(target, target, Posterior(mean, torch.zeros_like(mean)), spectrogram, beta=1.0)
    losses.total.backward()
    assert mean.grad is not None
    assert (mean.grad[:, 0] == 0).all()
    torch.testing.assert_close(mean.grad[:, 1], torch.full((2, 3), 2.0 / 6))  # d(mean^2 / 2), over 6 places


def test_a_plain_autoencoder_has_no_kl(spectrogram, target) -> None:
    losses = losses_of(target, target, None, spectrogram, beta=1e6)
    assert losses.total == losses.kl == 0


def test_losses_of_an_untrained_model_stay_finite(spectrogram, target) -> None:
    wild = torch.full_like(target, 1e4).requires_grad_()
    losses = losses_of(wild, target, standard_posterior(), spectrogram)
    losses.total.backward()
    assert math.isfinite(float(losses.total.detach()))
    assert wild.grad is not None and wild.grad.isfinite().all()


def test_detached_numbers_hold_no_graph(spectrogram, target) -> None:
    losses = losses_of(target.clone().requires_grad_(), target, None, spectrogram)
    assert losses.total.requires_grad and not losses.detached().total.requires_grad
