import pytest
import torch
from torch import Tensor

from audiovae.model.prior import COMPONENTS, DIRECTIONS_OF_CENTRES, FACTORS, MAX_MEMORY, SEGMENTS_OF_A_COMPONENT, Prior

CHANNELS = 6
MEAN = torch.linspace(-2, 2, CHANNELS)
BETWEEN = 2.0
"""Standard deviation of the centres."""
TURN = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(1)))[0]
SIZES = torch.linspace(3, 0.5, CHANNELS)
"""Of what moves, in directions across the channels."""


def sequences(memory: float, *, count: int, frames: int, seed: int = 0, mean: Tensor = MEAN) -> Tensor:
    """The prior's model with one component, run from far enough back to be stationary."""
    generator = torch.Generator().manual_seed(seed)
    u, seen = torch.randn(count, CHANNELS, generator=generator), []
    for _ in range(frames):
        seen.append(u)
        u = memory * u + (1 - memory**2) ** 0.5 * torch.randn(count, CHANNELS, generator=generator)
    moving = TURN @ (SIZES[:, None] * torch.stack(seen, dim=2))
    centre = mean + BETWEEN * torch.randn(count, CHANNELS, generator=generator)
    return moving + centre[:, :, None]


def covariance(x: Tensor, lag: int) -> Tensor:
    """Of frames that lie ``lag`` apart, over all sequences."""
    x = x.double() - x.double().mean((0, 2))[:, None]
    pairs = x.shape[0] * (x.shape[2] - lag)
    return torch.einsum("sct,sdt->cd", x[:, :, lag:], x[:, :, : x.shape[2] - lag]) / pairs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def directions_enough():
    """As many as there are channels, so that the data are exactly what the prior can say."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FACTORS", "DIRECTIONS_OF_CENTRES"):
            patch.setattr(f"audiovae.model.prior.{name}", CHANNELS + 2)
        yield


@pytest.fixture(scope="module")
def data() -> Tensor:
    return sequences(0.8, count=3000, frames=32)


@pytest.fixture(scope="module")
def prior(data) -> Prior:
    return Prior.fit(data)


@pytest.mark.parametrize("frames", [16, 64])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_memory_and_size_of_movement_are_recovered_even_from_short_segments(monkeypatch, memory, frames):
    monkeypatch.setattr("audiovae.model.prior.COMPONENTS", 1)
    fitted = Prior.fit(sequences(memory, count=3000, frames=frames))
    assert (fitted.factor_memory[0, :CHANNELS] - memory).abs().max() < 0.03
    sizes = fitted.factors[0].norm(dim=0).sort(descending=True).values
    torch.testing.assert_close(sizes, SIZES, rtol=0.06, atol=0)
    assert fitted.between[0].square().sum(1).mean() == pytest.approx(BETWEEN**2, rel=0.1)


def test_samples_have_the_data_s_moments(data, prior):
    samples = prior.sample(32, count=3000, generator=seeded())
    assert (samples.mean((0, 2)) - data.mean((0, 2))).abs().max() < 0.3
    scale = covariance(data, 0).diagonal().mean()
    for lag in (0, 1, 2, 4, 8, 15):
        assert (covariance(samples, lag) - covariance(data, lag)).abs().max() < 0.12 * scale
    assert (prior.mean - data.mean((0, 2))).abs().max() < 1e-4
    torch.testing.assert_close(prior.variance, samples.transpose(0, 1).flatten(1).var(1), rtol=0.1, atol=0)


def test_with_few_directions_each_channel_varies_as_much_alone(data, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("audiovae.model.prior.FACTORS", FACTORS)
    monkeypatch.setattr("audiovae.model.prior.DIRECTIONS_OF_CENTRES", DIRECTIONS_OF_CENTRES)
    assert max(FACTORS, DIRECTIONS_OF_CENTRES) < CHANNELS
    for count in (31, 400, 3000):  # one kind, 25, and all of them
        varies = data[:count].transpose(0, 1).flatten(1).var(1)
        samples = Prior.fit(data[:count]).sample(32, count=4000, generator=seeded()).transpose(0, 1).flatten(1).var(1)
        assert (samples / varies).min() > 0.9 and (samples / varies).max() < 1.15


def test_kinds_of_sounds_are_kept_apart():
    """What lies between two kinds is not drawn; one Gaussian would put most of its samples there."""
    kinds = [sequences(0.8, count=400, frames=16, seed=seed, mean=MEAN + shift) for seed, shift in ((0, -20), (1, 20))]
    samples = Prior.fit(torch.cat(kinds)).sample(16, count=500, generator=seeded())
    offset = (samples.mean(2) - MEAN).mean(1)
    assert ((offset.abs() - 20).abs() < 8).all()
    assert (offset > 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_samples_move_as_smoothly_as_the_data_and_the_control_does_not(data, prior):
    def correlation(x: Tensor, lag: int) -> float:
        u = x - x.mean(2, keepdim=True)
        return float(covariance(u, lag).trace() / covariance(u, 0).trace())

    samples = prior.sample(64, count=500, generator=seeded())
    reference = sequences(0.8, count=500, frames=64, seed=5)
    control = Prior.standard(CHANNELS).sample(64, count=500, generator=seeded())
    for lag in (1, 2, 4):
        assert correlation(samples, lag) == pytest.approx(correlation(reference, lag), abs=0.04)
        assert abs(correlation(control, lag)) < 0.03


def test_standard_prior_is_unit_normal():
    samples = Prior.standard(CHANNELS).sample(50, count=400, generator=seeded())
    assert samples.mean().abs() < 0.02
    assert (covariance(samples, 0) - torch.eye(CHANNELS)).abs().max() < 0.04
    assert torch.equal(Prior.standard(CHANNELS).variance, torch.ones(CHANNELS))


def test_long_samples_stay_where_the_data_are(prior):
    sample = prior.sample(10_000, count=1, generator=seeded(3))
    around = sample - sample.mean(2, keepdim=True)
    assert around.abs().max() < 7 * SIZES.max()
    halves = [half.var().item() for half in around.split(5000, dim=2)]
    assert halves[0] == pytest.approx(halves[1], rel=0.2)


@pytest.mark.parametrize(
    "segments",
    [
        torch.randn(50, CHANNELS, 16, generator=seeded()).cumsum(2),
        torch.randn(50, CHANNELS, 1, generator=seeded()) * torch.tensor([1.0, -1.0]).repeat(8),
        torch.randn(3, CHANNELS, 3, generator=seeded()),
        torch.randn(3, CHANNELS, 2, generator=seeded()),
    ],
    ids=["random walks", "undamped swinging", "far too little data", "the least there may be"],
)
def test_movement_that_would_not_settle_is_made_stable(segments):
    prior = Prior.fit(segments)
    for memory in (prior.factor_memory, prior.rest_memory):
        assert float(memory.min()) >= 0
        assert float(memory.max()) <= MAX_MEMORY + 1e-6
    assert prior.sample(2000, count=1, generator=seeded()).abs().max() < 10 * segments.std()


def test_kinds_have_enough_segments_each_and_no_more_than_there_is_room_for():
    few, many = 5 * SEGMENTS_OF_A_COMPONENT, 2 * COMPONENTS * SEGMENTS_OF_A_COMPONENT
    for count, most in ((few, 5), (many, COMPONENTS)):
        share = Prior.fit(torch.randn(count, 2, 4, generator=seeded())).share
        assert 1 < int((share > 0).sum()) <= most
        assert float(share.sum()) == pytest.approx(1)


def test_what_counts_more_sorts_the_kinds():
    x = torch.randn(4 * SEGMENTS_OF_A_COMPONENT, 2, 4, generator=seeded()) * 0.1
    x[:, 0] += torch.tensor([0.0, 1.0]).repeat(len(x) // 2)[:, None]
    x[:, 1] += torch.tensor([0.0, 3.0]).repeat_interleave(len(x) // 2)[:, None]

    def spread(importance: Tensor, channel: int) -> float:
        prior = Prior.fit(x, importance=importance)
        return float((prior.share @ prior.between[:, channel].square()).sum())

    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert spread(first, 0) < 0.1 * spread(second, 0)
    assert spread(second, 1) < 0.1 * spread(first, 1)


def test_same_generator_same_sample(prior):
    one, same, other = (prior.sample(16, count=3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_a_refit_is_the_same(data, prior):
    assert all(torch.equal(*pair) for pair in zip(Prior.fit(data).buffers(), prior.buffers(), strict=True))


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


def test_half_precision_weights_sample_nearly_the_same(data, prior):
    half = Prior.fit(data).half().float().sample(200, count=20, generator=seeded())
    torch.testing.assert_close(half, prior.sample(200, count=20, generator=seeded()), atol=0.05, rtol=0.02)


def test_collapsed_and_doubled_channels_are_no_problem(data):
    singular = torch.cat([data, torch.zeros(len(data), 1, 32), data[:, :1]], dim=1)
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


def test_a_recording_is_of_the_kind_that_it_was_drawn_of():
    far = torch.cat([sequences(0.5, count=64, frames=24, seed=n, mean=MEAN + 20 * n) for n in range(4)])
    several = Prior.fit(far)
    known = several.share.nonzero().flatten().tolist()
    for kind in known:
        drawn = several.sample(40, count=2, generator=seeded(kind), kind=kind)
        nearest = several.centre[several.kind_of(drawn)]
        assert (nearest - several.centre[kind]).norm() < 15  # some of four far groups are several kinds
    assert several.kind_of(torch.full((1, CHANNELS, 3), 1e6)) in known


def test_sounds_of_one_kind_have_its_centre(prior):
    kind = int(prior.share.argmax())
    drawn = prior.sample(8, count=4000, generator=seeded(), kind=kind)
    torch.testing.assert_close(drawn.mean((0, 2)), prior.centre[kind], atol=0.15, rtol=0)
