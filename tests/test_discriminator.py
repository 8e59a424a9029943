"""The discriminator and its side of training, on random textures: it learns, it teaches, and it can't shout."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from audiovae.config import SpectrogramConfig, TrainingConfig
from audiovae.spectrogram import Spectrogram
from audiovae.training.adversary import Adversary, balanced_gradient
from audiovae.training.discriminator import Discriminator, discriminator_loss, feature_matching_loss


@pytest.fixture(scope="module")
def spectrogram() -> Spectrogram:
    return Spectrogram(SpectrogramConfig(n_bands=32))


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def discriminator(spectrogram: Spectrogram) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(spectrogram)


def textures(seed: int, *, count: int = 8) -> Tensor:
    """What no decoder can know from a coarse description: a value of its own for every band and frame."""
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def blurred(sounds: Tensor) -> Tensor:
    return functional.avg_pool2d(sounds, 3, stride=1, padding=1)


def settings(**overrides: float) -> TrainingConfig:
    defaults = {"adversarial_weight": 0.5, "adversarial_start_step": 0, "adversarial_warmup_steps": 0}
    return TrainingConfig.model_validate(defaults | {"discriminator_learning_rate": 1e-3} | overrides)


class TestDiscriminator:
    def test_learns_to_tell_blurred_from_sharp_in_a_few_steps(self, discriminator) -> None:
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
        for step in range(40):
            sharp = textures(step)
            discriminator_loss(discriminator(sharp)[-1], discriminator(blurred(sharp))[-1]).backward()
            optimizer.step()
            optimizer.zero_grad()
        unseen = textures(1000, count=32)
        with torch.inference_mode():
            recorded, decoded = (discriminator(some)[-1] for some in (unseen, blurred(unseen)))
        assert (recorded > 0).float().mean() > 0.95
        assert (decoded < 0).float().mean() > 0.95

    def test_knows_in_which_band_a_place_lies(self, discriminator) -> None:
        """Of a sound that is the same in all bands the logits differ, with bands and not with frames."""
        with torch.inference_mode():
            logits = discriminator(torch.zeros(1, 1, 32, 256))[-1][0, 0, :, 2:-2]
        assert logits.std(0).min() > 100 * logits.std(1).max()

    def test_does_not_see_what_is_under_the_floor(self, discriminator, spectrogram) -> None:
        silence = spectrogram.normalise(torch.zeros(1, 1, 32, 16))
        with torch.inference_mode():
            assert torch.equal(discriminator(silence)[-1], discriminator(silence - 3)[-1])

    def test_is_small(self, spectrogram) -> None:
        discriminator = Discriminator(spectrogram)
        assert sum(parameter.numel() for parameter in discriminator.parameters()) < 200_000

    @pytest.mark.parametrize("frames", [1, 2, 7, 33])
    def test_takes_any_number_of_frames(self, discriminator, frames) -> None:
        assert discriminator(torch.zeros(2, 1, 32, frames))[-1].shape == (2, 1, 2, math.ceil(frames / 16))

    def test_hinge_loss_of_known_logits(self) -> None:
        never_wrong, undecided = torch.tensor([[3.0], [1.0]]), torch.zeros(2, 1)
        assert discriminator_loss(never_wrong, -never_wrong) == 0
        assert discriminator_loss(undecided, undecided) == 2
        assert discriminator_loss(-never_wrong, never_wrong) == 6

    def test_feature_matching_is_relative_and_moves_the_decoded_only(self) -> None:
        recorded = [torch.full((2, 3, 4), 2.0, requires_grad=True), torch.full((2, 5), 100.0)]
        decoded = [torch.full((2, 3, 4), 3.0, requires_grad=True), torch.full((2, 5), 100.0)]
        loss = feature_matching_loss(recorded, decoded)
        assert float(loss.detach()) == pytest.approx(0.5 * 0.5)  # half as far as it is large, in one of two layers
        loss.backward()
        assert recorded[0].grad is None and decoded[0].grad is not None


class TestBalance:
    @pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
    def test_the_adversarial_gradient_has_its_share_of_the_other_ones_norm(self, accelerator, size) -> None:
        adversarial, wanted = textures(0) * size, 0.01 * textures(1)
        balanced = balanced_gradient(adversarial, wanted, share=0.3, accelerator=accelerator)
        torch.testing.assert_close(balanced.norm(), 0.3 * wanted.norm())
        torch.testing.assert_close(balanced / balanced.norm(), textures(0) / textures(0).norm())

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
    def test_a_discriminator_gone_wrong_pulls_at_nothing(self, accelerator, bad) -> None:
        balanced = balanced_gradient(torch.full((1, 1, 4, 4), bad), torch.ones(1, 1, 4, 4), share=1.0,
                                     accelerator=accelerator)  # fmt: skip
        assert not balanced.any()

    def test_holds_for_what_reaches_the_reconstruction_whatever_the_discriminator(
        self, accelerator, spectrogram
    ) -> None:
        adversary = Adversary(settings(adversarial_weight=0.25), spectrogram, accelerator)
        with torch.no_grad():
            for parameter in adversary.discriminator.parameters():
                parameter.mul_(30)
        target, reconstruction = textures(0), blurred(textures(0)).requires_grad_()
        total = (reconstruction - target).abs().mean()
        (wanted,) = torch.autograd.grad(total, reconstruction, retain_graph=True)
        adversary.joined(total, reconstruction, target, step=0).backward()
        assert reconstruction.grad is not None
        torch.testing.assert_close((reconstruction.grad - wanted).norm(), 0.25 * wanted.norm())


class TestAdversary:
    def test_before_its_start_it_leaves_the_loss_and_itself_alone(self, accelerator, spectrogram) -> None:
        adversary = Adversary(settings(adversarial_start_step=5), spectrogram, accelerator)
        before = {name: weight.clone() for name, weight in adversary.discriminator.state_dict().items()}
        target = textures(0)
        total = (blurred(target).requires_grad_() - target).abs().mean()
        assert adversary.joined(total, blurred(target), target, step=4) is total
        assert all(torch.equal(weight, before[name]) for name, weight in adversary.discriminator.state_dict().items())
        assert adversary.figures() == {}

    def test_learns_at_its_first_step_but_asks_for_nothing_yet(self, accelerator, spectrogram) -> None:
        adversary = Adversary(settings(adversarial_warmup_steps=10), spectrogram, accelerator)
        before = {name: weight.clone() for name, weight in adversary.discriminator.state_dict().items()}
        target, reconstruction = textures(0), blurred(textures(0)).requires_grad_()
        total = (reconstruction - target).abs().mean()
        (wanted,) = torch.autograd.grad(total, reconstruction, retain_graph=True)
        adversary.joined(total, reconstruction, target, step=0).backward()
        assert reconstruction.grad is not None and torch.equal(reconstruction.grad, wanted)
        weight = "layers.0.parametrizations.weight.original1"
        assert not torch.equal(adversary.discriminator.state_dict()[weight], before[weight])
        assert set(adversary.figures()) == {"discriminator", "adversarial", "feature_matching"}

    def test_a_step_that_is_not_finite_changes_nothing(self, accelerator, spectrogram) -> None:
        adversary = Adversary(settings(), spectrogram, accelerator)
        before = {name: weight.clone() for name, weight in adversary.discriminator.state_dict().items()}
        broken = torch.full_like(textures(0), math.nan).requires_grad_()
        adversary.joined((broken - textures(0)).abs().mean(), broken, textures(0), step=0)
        assert all(torch.equal(weight, before[name]) for name, weight in adversary.discriminator.state_dict().items())
        assert not adversary.optimizer.state_dict()["state"]

    def test_a_decoder_trained_against_it_draws_sharper(self, accelerator, spectrogram) -> None:
        """The best that an absolute error can do with what can't be known is a blur."""
        alone, against = (roughness_learnt(weight, spectrogram, accelerator) for weight in (0.0, 0.9))
        target = roughness(textures(0))
        assert alone < 0.15 * target
        assert 0.35 * target < against < 1.5 * target


def roughness(sounds: Tensor) -> float:
    """Mean difference of neighbouring bands."""
    return float(sounds.diff(dim=-2).abs().mean())


def roughness_learnt(weight: float, spectrogram: Spectrogram, accelerator: Accelerator) -> float:
    """Of a small decoder that gets the textures at a quarter of their resolution, and noise."""
    torch.manual_seed(0)
    adversary = Adversary(settings(adversarial_weight=weight), spectrogram, accelerator) if weight else None
    decoder = nn.Sequential(nn.Conv2d(2, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 1, 5, padding=2))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    reconstruction = torch.zeros(())
    for step in range(100):
        target = textures(step)
        coarse = functional.interpolate(functional.avg_pool2d(target, 4), scale_factor=4)
        reconstruction = decoder(torch.cat([coarse, textures(10_000 + step)], dim=1))
        loss = (reconstruction - target).abs().mean()
        if adversary:
            loss = adversary.joined(loss, reconstruction, target, step=step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return roughness(reconstruction.detach())
