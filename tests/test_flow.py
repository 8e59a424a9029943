"""The flow from noise to latents: known answers, and what only it can learn."""

import copy
import math
from pathlib import Path

import pytest
import torch
from tiny_flow import CHANNELS, FRAMES, seeded, trainer_of, two_levels

from audiovae.checkpoint import Facts, load_checkpoint, save_checkpoint
from audiovae.model.flow import COARSE_SHARE, STEPS, VARIANCE_FLOOR, Flow, _times
from audiovae.model.principal_components import PrincipalComponents
from audiovae.model.prior import COMPONENTS, Prior
from audiovae.model.vae import VAE
from audiovae.training.flow import SETTINGS, Examples, FlowTrainer

pytestmark = pytest.mark.usefixtures("narrow_and_on_one_thread")


def test_moments_are_those_of_all_frames_and_of_each_kind():
    segments, kind = two_levels(400)
    flow = Flow(CHANNELS, kinds=8)
    flow.learn_moments(segments, 3 * kind)
    flat = segments.mT.flatten(0, 1)
    torch.testing.assert_close(flow.mean, flat.mean(0))
    torch.testing.assert_close(flow.std, flat.std(0, correction=0))
    own = flow.normalised(segments[kind == 1].mT).flatten(0, 1)
    torch.testing.assert_close(flow.centre[3], own.mean(0))
    torch.testing.assert_close(flow.variance[3], own.var(0, correction=0).clamp_min(VARIANCE_FLOOR))
    assert (flow.centre[1] == 0).all() and (flow.variance[1] == 1).all()  # of a kind without a sound


def test_kinds_that_are_called_otherwise_are_known_as_before(trained_flow: FlowTrainer):
    """Also where some of a kind's segments were of another one: most of them say which it was."""
    segments, kind = two_levels(256)
    flow, noisy, time = copy.deepcopy(trained_flow.ema), torch.randn(2, FRAMES, CHANNELS), torch.tensor([0.3, 0.8])
    before = flow(noisy, time, torch.tensor([0, 1]))
    flow.learn_kinds(segments, 5 - 3 * kind, former=kind)
    torch.testing.assert_close(flow(noisy, time, torch.tensor([5, 2])), before)
    torch.testing.assert_close(flow.share[[5, 2]], torch.tensor([0.5, 0.5]))
    assert flow.share.sum() == 1
    known = flow.condition.of_kind.weight.clone()
    former = kind.clone()
    former[:20] = 1
    flow.learn_kinds(segments, 5 - 3 * kind, former=torch.where(former == 0, 5, 2))
    torch.testing.assert_close(flow.condition.of_kind.weight, known)


def test_a_flow_goes_over_to_other_sounds_of_its_kinds(trained_flow: FlowTrainer):
    segments, kind = two_levels(256)
    flow = copy.deepcopy(trained_flow.ema)
    flow.learn_kinds(segments + 1, kind, former=kind)
    torch.testing.assert_close(flow.mean, trained_flow.ema.mean)  # what the network sees is normalised as before
    torch.testing.assert_close(flow.std, trained_flow.ema.std)
    own = flow.normalised((segments + 1)[kind == 1].mT).flatten(0, 1)
    torch.testing.assert_close(flow.centre[1], own.mean(0), rtol=1e-4, atol=1e-4)


def test_the_gaussian_is_what_a_regression_finds():
    """E[z | z_t] of Gaussians is the line of least squares through pairs of them."""
    flow, time = Flow(1, kinds=2), 0.4
    flow.centre[1], flow.variance[1] = 2.0, 0.5
    z = 2 + math.sqrt(0.5) * torch.randn(200_000, generator=seeded())
    noisy = (1 - time) * torch.randn(200_000, generator=seeded(1)) + time * z
    slope = ((noisy - noisy.mean()) * (z - z.mean())).mean() / noisy.var()
    at = torch.tensor([-1.0, 0.0, 2.0])
    found = flow.gaussian(at[:, None, None], torch.full((3,), time), torch.ones(3, dtype=torch.long))[:, 0, 0]
    torch.testing.assert_close(found, z.mean() + slope * (at - noisy.mean()), atol=0.02, rtol=0)


def test_untrained_it_carries_noise_to_the_gaussian_of_the_kind():
    segments, kind = two_levels(400)
    flow = Flow(CHANNELS, kinds=2)
    flow.learn_moments(segments, kind)
    for index in (0, 1):
        noise = torch.randn(200, CHANNELS, FRAMES, generator=seeded())
        drawn, own = flow.carry(noise, torch.full((200,), index)), segments[kind == index]
        assert float(drawn.mean()) == pytest.approx(float(own.mean()), abs=0.1)
        assert float(drawn.std()) == pytest.approx(float(own.std()), rel=0.07)  # one is below the least variance
        gaussian = flow.centre[index] + flow.variance[index].sqrt() * noise.mT
        assert torch.allclose(drawn.mT, gaussian * flow.std + flow.mean, atol=1e-5)


def test_it_learns_what_no_gaussian_can(trained_flow):
    """Loud or quiet throughout: a Gaussian of the same mean and variance is mostly between."""
    held_out = two_levels(128, seed=7)
    examples = Examples(trained_flow.flow.normalised(held_out[0].mT), held_out[1])
    untrained = trainer_of(*two_levels(256))
    assert untrained.error(untrained.ema, examples) == pytest.approx(1)
    assert trained_flow.error(trained_flow.ema, examples) < 0.6
    noise = torch.randn(200, CHANNELS, FRAMES, generator=seeded())
    level = trained_flow.ema.carry(noise, torch.zeros(200, dtype=torch.long)).mean((1, 2))
    assert ((level.abs() - 3).abs() < 1.5).float().mean() > 0.95  # of the untrained one: none
    assert untrained.ema.carry(noise, torch.zeros(200, dtype=torch.long)).mean((1, 2)).abs().max() < 1.5
    assert 0.3 < float((level > 0).float().mean()) < 0.7
    other = trained_flow.ema.carry(noise, torch.ones(200, dtype=torch.long))
    assert float(other.mean()) == pytest.approx(5, abs=0.3)


def test_it_learns_that_noise_is_as_strong_as_its_sound():
    """Two loud channels say how strong the noise in all others is: no Gaussian of a kind knows that."""
    channels, frames, count = 16, 12, 256

    def loud_and_quiet(count: int, seed: int) -> torch.Tensor:
        loud = torch.where(torch.rand(count, 1, 1, generator=seeded(seed)) < 0.5, -1.0, 1.0)
        noise = torch.randn(count, channels - 2, frames, generator=seeded(seed + 1))
        return torch.cat([loud.expand(-1, 2, frames), torch.where(loud > 0, 1.4, 0.2) * noise], dim=1)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(channels, kinds=2)
    segments, kind = loud_and_quiet(count, seed=1), torch.zeros(count, dtype=torch.long)
    flow.learn_moments(segments, kind)
    examples = Examples(flow.normalised(segments.mT), kind)
    settings = SETTINGS.model_copy(update={"steps": 300, "batch_size": 32, "warmup_steps": 10})
    trainer = FlowTrainer(flow, examples, mixture=Prior(channels), importance=torch.ones(channels), settings=settings)
    for _ in range(settings.steps):
        trainer.step()
    noise = torch.randn(200, channels, frames, generator=seeded(9))
    drawn = trainer.ema.carry(noise, torch.zeros(200, dtype=torch.long))
    is_loud = drawn[:, :2].mean((1, 2)) > 0
    loud, quiet = (float(drawn[chosen][:, 2:].square().mean().sqrt()) for chosen in (is_loud, ~is_loud))
    assert (loud, quiet) == pytest.approx((1.4, 0.2), rel=0.15)


def test_it_begins_with_coordinates_that_are_of_few_bands_each():
    """Of noise whose bands are correlated with all others, components are of all bands; a rotation undoes that."""
    bands, channels = 24, 48
    mixing = torch.linalg.qr(torch.randn(4 * bands, 4 * bands, generator=seeded()))[0].double()
    components = PrincipalComponents(bands, 4, channels)
    components.fit(mixing * torch.logspace(0, -2, 4 * bands, dtype=torch.float64) @ mixing.mT, torch.zeros(4 * bands))
    flow = Flow(channels, kinds=2)
    flow.localise(components)
    coarse = channels // COARSE_SHARE
    torch.testing.assert_close(flow.local @ flow.local.mT, torch.eye(channels), atol=1e-5, rtol=0)
    assert torch.equal(flow.local[:coarse, :coarse], torch.eye(coarse))

    def middle_and_width(patterns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = patterns[coarse:].unflatten(1, (bands, 4)).square().sum(2)
        share, band = share / share.sum(1, keepdim=True), torch.arange(bands)
        middle = share @ band.float()
        return middle, (share * (band - middle[:, None]).square()).sum(1).sqrt()

    middle, width = middle_and_width(flow.local @ components.analysis)
    assert middle.diff().min() > -1 and middle[-1] - middle[0] > bands / 2
    assert width.mean() < 0.8 * middle_and_width(components.analysis)[1].mean()
    alone = Flow(channels, kinds=2)
    alone.localise(PrincipalComponents(bands, 4, channels))  # nothing was fitted
    assert torch.equal(alone.local, torch.eye(channels))


def prior_with(flow: Flow) -> Prior:
    segments, _ = two_levels(64)
    prior = Prior.fit(segments).without_flow()
    prior.flow = flow
    return prior


def test_a_prior_draws_with_its_flow_and_varies_with_it(trained_flow):
    prior = prior_with(trained_flow.ema)
    one, same = (prior.sample(FRAMES, count=2, generator=seeded(3), kind=0) for _ in range(2))
    assert one.shape == (2, CHANNELS, FRAMES)
    assert torch.equal(one, same)
    assert not one.allclose(prior.without_flow().sample(FRAMES, count=2, generator=seeded(3), kind=0))
    latents = two_levels(2, seed=5)[0][:1].expand(2, -1, -1)
    changes = [
        (prior.vary(latents, amount=amount, generator=seeded(1)) - latents).norm() for amount in (0, 0.1, 0.4, 1)
    ]
    assert changes[0] == 0
    assert changes == sorted(changes)
    kind = prior.kind_of(latents)
    new = prior.sample(FRAMES, count=1, generator=seeded(1), kind=kind)
    torch.testing.assert_close(
        prior.vary(latents, amount=1, generator=seeded(1)), new.expand(2, -1, -1), atol=1e-4, rtol=0
    )
    single, double = (prior.vary(one, amount=0.4, generator=seeded(1)) for one in (latents, latents.double()))
    assert double.dtype == torch.float64 and torch.equal(double.float(), single)


def test_a_small_amount_is_a_small_change_and_none_is_none(trained_flow):
    """Where hardly any noise is left, the network must not add what it makes up."""
    prior = prior_with(trained_flow.ema)
    latents = prior.sample(FRAMES, count=1, generator=seeded(4), kind=0)
    for amount in (1e-4, 1e-3, 0.01, 0.05):
        change = (prior.vary(latents, amount=amount, generator=seeded(1)) - latents) / trained_flow.ema.std[:, None]
        assert 0.2 * amount < float(change.square().mean().sqrt()) < 4 * amount
    for amount in (0, 1e-300, 1e-17, 1e-13, 1e-7):
        assert torch.equal(prior.vary(latents, amount=amount, generator=seeded(1)), latents)


def test_samples_can_be_trained_on_and_changed(trained_flow):
    sample = prior_with(trained_flow.ema).sample(FRAMES, count=1, generator=seeded(4))
    assert sample.is_contiguous()
    sample += 1
    torch.nn.Linear(FRAMES, 1)(sample).sum().backward()


def test_many_sounds_are_carried_in_parts(trained_flow, monkeypatch):
    prior = prior_with(trained_flow.ema)
    whole = prior.sample(FRAMES, count=5, generator=seeded(4))
    monkeypatch.setattr("audiovae.model.flow.FRAMES_AT_ONCE", 2 * FRAMES)
    torch.testing.assert_close(prior.sample(FRAMES, count=5, generator=seeded(4)), whole, atol=1e-4, rtol=0)


def test_shares_of_kinds_are_those_that_the_flow_learns_from():
    segments, _ = two_levels(90)
    flow = Flow(CHANNELS, kinds=COMPONENTS)
    flow.learn_moments(segments, torch.where(torch.arange(90) < 60, 7, 9))
    assert flow.share[[7, 9]].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert float(flow.share.sum()) == pytest.approx(1)


def test_a_longer_sample_is_as_the_shorter_one_far_from_its_end(trained_flow):
    prior = prior_with(trained_flow.ema)
    short, long = (prior.sample(frames, count=1, generator=seeded(2), kind=0) for frames in (300, 600))
    assert (short - long[..., :300])[..., :100].abs().max() < 0.05
    assert long.isfinite().all()


def test_a_checkpoint_holds_it(trained_flow, tmp_path: Path):
    from tiny_codec import TINY

    prior = Prior.fit(torch.randn(64, 8, 12, generator=seeded())).with_flow()
    assert prior.flow is not None
    torch.nn.init.normal_(prior.flow.out.weight, std=0.01)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model=VAE(TINY), prior=prior, facts=Facts())
    loaded = load_checkpoint(path).prior
    for draw in (prior, loaded):
        draw.requires_grad_(False)
    assert torch.equal(
        loaded.sample(9, count=2, generator=seeded()), prior.eval().sample(9, count=2, generator=seeded())
    )
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    save_checkpoint(path, model=VAE(TINY), prior=prior.without_flow(), facts=Facts(), force=True)
    assert load_checkpoint(path).prior.flow is None


def test_steps_lie_closer_near_noise_and_near_sound():
    assert torch.tensor(_times(0.0)).diff()[0] < 0.2 / STEPS
    for start in (0.0, 0.6):
        times = torch.tensor(_times(start))
        steps = times.diff()
        assert len(steps) == STEPS
        assert (float(times[0]), float(times[-1])) == pytest.approx((start, 1.0))
        assert (steps > 0).all()
        assert steps[-1] < 0.1 * steps[len(steps) // 2]
