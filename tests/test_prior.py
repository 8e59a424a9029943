import pytest
import torch
from torch import Tensor

from audiovae.model.prior import MAX_RADIUS, Prior

CHANNELS = 6
MEAN = torch.linspace(-2, 2, CHANNELS)
BETWEEN = 2.0
"""Standard deviation of the centres."""


def transition(memory: float) -> Tensor:
    """Half a rotation, half a decay: the channels act on each other."""
    turn = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(1)))[0]
    return 0.5 * memory * (turn + torch.eye(CHANNELS))


def sequences(a: Tensor, *, count: int, frames: int, seed: int = 0) -> Tensor:
    """The prior's model, run from far enough back to be stationary."""
    generator = torch.Generator().manual_seed(seed)
    u, seen = torch.zeros(count, CHANNELS), []
    for _ in range(frames + 100):
        u = u @ a.T + torch.randn(count, CHANNELS, generator=generator)
        seen.append(u)
    centre = MEAN + BETWEEN * torch.randn(count, CHANNELS, generator=generator)
    return torch.stack(seen[-frames:], dim=2) + centre[:, :, None]


def covariance(x: Tensor, lag: int) -> Tensor:
    """Of frames that lie ``lag`` apart, over all sequences."""
    x = x.double() - x.double().mean((0, 2))[:, None]
    pairs = x.shape[0] * (x.shape[2] - lag)
    return torch.einsum("sct,sdt->cd", x[:, :, lag:], x[:, :, : x.shape[2] - lag]) / pairs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data() -> Tensor:
    return sequences(transition(0.8), count=3000, frames=16)


@pytest.fixture(scope="module")
def prior(data) -> Prior:
    return Prior.fit(data)


@pytest.mark.parametrize(("memory", "tolerance"), [(0.0, 0.02), (0.5, 0.02), (0.8, 0.02), (0.95, 0.03)])
def test_transition_is_recovered_even_from_short_segments(memory, tolerance):
    truth = transition(memory)
    fitted = Prior.fit(sequences(truth, count=3000, frames=16))
    assert (fitted.transition - truth).abs().max() < tolerance
    assert fitted.between.diagonal().mean() == pytest.approx(BETWEEN**2, rel=0.1)


def test_samples_have_the_data_s_moments(data, prior):
    samples = prior.sample(16, count=3000, generator=seeded())
    assert (samples.mean((0, 2)) - data.mean((0, 2))).abs().max() < 0.2
    scale = covariance(data, 0).diagonal().mean()
    for lag in (0, 1, 2, 4, 8, 15):
        assert (covariance(samples, lag) - covariance(data, lag)).abs().max() < 0.08 * scale


def test_samples_move_as_smoothly_as_the_data_and_the_control_does_not(data, prior):
    def correlation(x: Tensor, lag: int) -> float:
        u = x - x.mean(2, keepdim=True)
        return float(covariance(u, lag).trace() / covariance(u, 0).trace())

    samples = prior.sample(64, count=500, generator=seeded())
    reference = sequences(transition(0.8), count=500, frames=64, seed=5)
    control = Prior.standard(CHANNELS).sample(64, count=500, generator=seeded())
    for lag in (1, 2, 4):
        assert correlation(samples, lag) == pytest.approx(correlation(reference, lag), abs=0.03)
        assert abs(correlation(control, lag)) < 0.03
    assert correlation(samples, 1) > 0.3


def test_standard_prior_is_unit_normal():
    samples = Prior.standard(CHANNELS).sample(50, count=400, generator=seeded())
    assert samples.mean().abs() < 0.02
    assert (covariance(samples, 0) - torch.eye(CHANNELS)).abs().max() < 0.04


def test_long_samples_stay_where_the_data_are(data, prior):
    sample = prior.sample(10_000, count=1, generator=seeded(3))
    around = sample - sample.mean(2, keepdim=True)
    assert around.abs().max() < 7 * prior.within.diagonal().max().sqrt()
    halves = [half.var().item() for half in around.split(5000, dim=2)]
    assert halves[0] == pytest.approx(halves[1], rel=0.2)


@pytest.mark.parametrize(
    "segments",
    [
        torch.randn(50, CHANNELS, 16, generator=seeded()).cumsum(2),
        torch.randn(50, CHANNELS, 1, generator=seeded()) * torch.tensor([1.0, -1.0]).repeat(8),
        torch.randn(3, CHANNELS, 3, generator=seeded()),
    ],
    ids=["random walks", "undamped swinging", "far too little data"],
)
def test_movement_that_would_not_settle_is_made_stable(segments):
    prior = Prior.fit(segments)
    assert torch.linalg.eigvals(prior.transition).abs().max() <= MAX_RADIUS + 1e-5
    noise = prior.within - prior.transition @ prior.within @ prior.transition.T
    assert torch.linalg.eigvalsh(noise).min() > -0.01 * noise.diagonal().max()
    assert prior.sample(2000, count=1, generator=seeded()).abs().max() < 10 * segments.std()


def test_same_generator_same_sample(prior):
    one, same, other = (prior.sample(16, count=3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_a_longer_sample_starts_like_the_shorter(prior):
    short, long = (prior.sample(frames, count=1, generator=seeded()) for frames in (5, 50))
    assert torch.equal(long[..., :5], short)


def test_state_restores_it_exactly(prior):
    restored = Prior(CHANNELS)
    restored.load_state_dict(prior.state_dict(), strict=True)
    assert torch.equal(
        restored.sample(9, count=2, generator=seeded()),
        prior.sample(9, count=2, generator=seeded()),
    )
    assert not list(prior.parameters())
    assert {buffer.dtype for buffer in prior.buffers()} == {torch.float32}


def test_half_precision_weights_still_sample(data, prior):
    samples = Prior.fit(data).half().float().sample(200, count=200, generator=seeded())
    expected = prior.sample(200, count=200, generator=seeded())
    assert covariance(samples, 1).allclose(covariance(expected, 1), atol=0.1)


def test_collapsed_and_doubled_channels_are_no_problem(data):
    singular = torch.cat([data, torch.zeros(len(data), 1, 16), data[:, :1]], dim=1)
    samples = Prior.fit(singular).sample(100, count=20, generator=seeded())
    assert samples.isfinite().all()
    assert samples[:, -2].abs().max() < 1e-3
    assert samples[:, -1].allclose(samples[:, 0], atol=0.05)


def test_silence_alone_gives_silence():
    assert Prior.fit(torch.zeros(3, CHANNELS, 8)).sample(9, count=1, generator=seeded()).abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 4, 16), (8, 4, 1), (0, 4, 16)])
def test_too_little_data_is_refused(shape):
    with pytest.raises(ValueError, match="at least 2 segments of 2 latent frames"):
        Prior.fit(torch.zeros(shape))


def test_damaged_data_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        Prior.fit(torch.full((4, 4, 16), torch.nan))
