import torch

from audiovae.retiming import common_places, common_times, read, settled

FRAMES = 200


def weights(*shares: float) -> torch.Tensor:
    return torch.tensor(shares)[:, None].expand(-1, FRAMES)


def lags(*peaks: float) -> torch.Tensor:
    """Of each recording behind the first: 0 at the ends, most in the middle."""
    bell = torch.sin(torch.linspace(0, torch.pi, FRAMES))
    return torch.stack([peak * bell for peak in peaks])


def test_values_are_read_between_frames_and_held_beyond_the_ends() -> None:
    values = torch.tensor([[0.0, 10.0, 20.0], [5.0, 5.0, 8.0]])
    places = torch.tensor([-3.0, 0.25, 1.0, 1.5, 9.0], dtype=torch.float64)
    assert read(values, places).tolist() == [[0, 2.5, 10, 15, 20], [5, 5, 5, 6.5, 8]]
    assert torch.equal(read(values, settled(torch.arange(3) + 1e-5)), values)  # what isn't moved stays bit for bit
    assert read(values[:, :1], places).shape == (2, 5)


def test_what_happens_at_lagging_times_happens_at_one_frame_of_the_common_axis() -> None:
    behind = lags(12.0)
    times = common_times(behind)
    assert torch.allclose(times.mean(0), torch.arange(FRAMES, dtype=torch.float64), atol=0.05)
    assert torch.allclose((times[1] - times[0]).float(), behind[0], atol=0.1)


def test_many_recordings_meet_at_the_mean_of_their_times() -> None:
    times = common_times(lags(12.0, -9.0))
    inner = slice(20, -20)
    assert torch.allclose(times.mean(0)[inner], torch.arange(FRAMES, dtype=torch.float64)[inner], atol=0.1)
    assert (times.diff(dim=1) >= 0).all()


def test_the_result_follows_the_weights_and_ends_at_each_recording_s_own_time() -> None:
    times, frames = common_times(lags(12.0)), torch.arange(FRAMES, dtype=torch.float64)
    for shares in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.25, 0.75)):
        places = common_places(times, weights(*shares))
        made = sum(share * read(one, places) for share, one in zip(shares, times, strict=True))
        assert torch.allclose(torch.as_tensor(made)[5:-5], frames[5:-5], atol=1e-3)
    # Beyond the ends, time stays that of the end.
    assert torch.equal(common_places(times, weights(-0.5, 1.5)), common_places(times, weights(0.0, 1.0)))


def test_time_never_goes_back_however_steep_the_weights() -> None:
    weight = (torch.arange(FRAMES) % 20 < 10).float()
    places = common_places(common_times(lags(40.0)), torch.stack([weight, 1 - weight]))
    assert (places.diff() >= 0).all()


def test_without_lags_everything_stays() -> None:
    times = common_times(torch.zeros(2, FRAMES))
    frames = torch.arange(FRAMES, dtype=torch.float64)
    assert torch.equal(times, frames.expand(3, -1))
    assert torch.allclose(common_places(times, weights(0.2, 0.3, 0.5)), frames, atol=1e-6)
