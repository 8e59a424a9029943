"""The VAE: shapes, budget, locality in time, the posterior."""

import pytest
import torch
from tiny_codec import TINY
from torch.utils.flop_counter import FlopCounterMode

from audiovae.config import Config
from audiovae.model.posterior import Posterior, discrete_kl, gaussian_kl
from audiovae.model.vae import VAE


def tiny_vae(config: Config = TINY) -> VAE:
    torch.manual_seed(0)
    return VAE(config).eval()


def test_lectures_kl_example_to_all_its_digits():
    binomial, uniform = torch.tensor([0.36, 0.48, 0.16]).double(), torch.full((3,), 1 / 3).double()
    assert float(discrete_kl(binomial, uniform)) == pytest.approx(0.0852996, abs=5e-8)
    assert float(discrete_kl(uniform, binomial)) == pytest.approx(0.097455, abs=5e-7)


def test_discrete_kl_where_outcomes_are_impossible():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    assert float(discrete_kl(p, q)) == pytest.approx(0.6931472)
    assert float(discrete_kl(q, p)) == float("inf")


@pytest.mark.parametrize(("mean", "logvar"), [(0.0, 0.0), (1.5, -2.0), (-0.7, 0.8), (3.0, -6.0)])
def test_gaussian_kl_against_monte_carlo(mean: float, logvar: float):
    count = 400_000
    posterior = torch.distributions.Normal(mean, torch.tensor(logvar / 2).exp())
    draws = posterior.sample((count,))
    logs = posterior.log_prob(draws) - torch.distributions.Normal(0.0, 1.0).log_prob(draws)
    error = 5 * float(logs.std()) / count**0.5 + 1e-6
    assert float(gaussian_kl(torch.tensor(mean), torch.tensor(logvar))) == pytest.approx(float(logs.mean()), abs=error)


def test_samples_have_the_posteriors_moments():
    posterior = Posterior(torch.full((1, 1, 100_000), 2.0), torch.full((1, 1, 100_000), -1.0))
    sample = posterior.sample(torch.Generator().manual_seed(3))
    assert float(sample.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(sample.std()) == pytest.approx(0.6065, abs=0.01)
    torch.testing.assert_close(sample, posterior.sample(torch.Generator().manual_seed(3)))
    assert posterior.mode() is posterior.mean


def test_shapes_and_time_stride():
    vae = tiny_vae()
    posterior = vae.encode(torch.zeros(3, 1, 64, 40))
    assert posterior.mean.shape == posterior.logvar.shape == (3, 8, 5)
    assert vae.decode(posterior.mean).shape == (3, 1, 64, 40)


def test_plain_autoencoder_has_no_width_to_sample():
    config = TINY.model_copy(update={"model": TINY.model.model_copy(update={"variational": False})})
    vae = tiny_vae(config)
    posterior = vae.encode(torch.randn(1, 1, 64, 16))
    assert vae.encoder.head.out_channels == 8
    assert float((posterior.sample() - posterior.mean).detach().abs().max()) < 0.02


def test_an_autoencoder_that_starts_from_a_vae_says_what_it_said():
    vae = tiny_vae()
    autoencoder = tiny_vae(TINY.with_overrides(["model.variational=false"]))
    autoencoder.start_from(vae)
    spectrogram = torch.randn(2, 1, TINY.spectrogram.n_bands, 4 * TINY.model.time_stride)
    mean = vae.encode(spectrogram).mean
    torch.testing.assert_close(autoencoder.encode(spectrogram).mean, mean)
    torch.testing.assert_close(autoencoder.decode(mean), vae.decode(mean))
    with pytest.raises(RuntimeError, match="size mismatch"):
        vae.start_from(autoencoder)


def test_default_model_keeps_its_budget():
    config = Config()
    vae = VAE(config)
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    assert 8e6 <= parameters <= 9e6
    latent_frames = 27
    seconds = latent_frames / config.latent_rate
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        posterior = vae.encode(torch.zeros(1, 1, 256, 4 * latent_frames))
        vae.decode(posterior.mean)
    assert counter.get_total_flops() / seconds <= 1.05e9
    assert config.latent_rate == pytest.approx(21.53, abs=0.01)


@pytest.mark.parametrize("bottleneck_stride", [1, 2, 3])
def test_nothing_reaches_further_in_time_than_the_stated_context(bottleneck_stride: int):
    model = TINY.model.model_copy(update={"bottleneck_stride": bottleneck_stride})
    vae, frames = tiny_vae(TINY.model_copy(update={"model": model})), 64
    context, stride = vae.context_latent_frames, model.time_stride
    middle = frames // 2
    with torch.inference_mode():
        spectrogram = torch.randn(1, 1, 64, stride * frames)
        changed = spectrogram.clone()
        changed[..., stride * middle : stride * (middle + 1)] += 10.0
        moved = (vae.encode(changed).mean - vae.encode(spectrogram).mean).abs().amax(dim=(0, 1)) > 0
        latents = torch.randn(1, 8, frames)
        nudged = latents.clone()
        nudged[..., middle] += 10.0
        heard = (vae.decode(nudged) - vae.decode(latents)).abs().amax(dim=(0, 1, 2)).reshape(frames, stride).amax(1) > 0
    for reach in (moved, heard):
        assert reach[middle]
        assert not reach[: middle - context].any()
        assert not reach[middle + context + 1 :].any()


def test_batch_members_do_not_influence_each_other():
    vae = tiny_vae()
    batch = torch.randn(3, 1, 64, 24)
    with torch.inference_mode():
        together, alone = vae.encode(batch).mean[1], vae.encode(batch[1:2]).mean[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
