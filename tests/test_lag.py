import pytest
import torch

from audiovae.lag import LARGEST_LAG_FRAMES, best_lags, onset_strength

FRAMES = 400


def onsets(frames: list[float]) -> torch.Tensor:
    strength = torch.zeros(FRAMES)
    strength[[round(frame) for frame in frames]] = 0.7
    return strength


def hits(frames: list[int], *, height: float = 1.0) -> torch.Tensor:
    """Spectrogram of sounds that start at once and die away, over soft noise."""
    spectrogram = 0.02 * torch.rand(16, FRAMES, generator=torch.Generator().manual_seed(0))
    for frame in frames:
        spectrogram[:, frame:] += height * torch.exp(-torch.arange(FRAMES - frame) / 20)
    return spectrogram


def test_onsets_are_where_sounds_begin_and_nowhere_else() -> None:
    frames = [50, 120, 135, 300]
    strength = onset_strength([hits(frames)])
    found = strength.nonzero()[:, 0]
    assert len(found) == len(frames)
    assert all(0 <= one - frame <= 3 for one, frame in zip(found.tolist(), frames, strict=True))
    assert (strength[found] > 0.5).all() and strength.max() < 1
    assert not onset_strength([hits([])]).any()


def test_softer_attacks_are_less_of_an_onset_beside_loud_ones() -> None:
    strength = onset_strength([hits([100, 180]) + hits([250], height=0.3)])
    assert 0 < strength[240:260].max() < min(strength[90:110].max(), strength[170:190].max())


def test_how_loud_all_is_makes_little_difference() -> None:
    loud, soft = (onset_strength([factor * hits([100, 180])]) for factor in (1.0, 0.5))
    assert torch.allclose(loud, soft, atol=0.1)


def test_pieces_have_the_onsets_of_the_whole() -> None:
    whole = hits([50, 120, 135, 300])
    for size in (1, 7, 120):
        assert torch.allclose(onset_strength(whole.split(size, dim=1)), onset_strength([whole]), atol=1e-5)


def test_lags_bring_onsets_together() -> None:
    first, last = [60, 130, 180, 260, 340], [70, 118, 190, 255, 355]
    lags = best_lags(onsets(first), onsets(last))
    for one, other in zip(first, last, strict=True):
        assert lags[(one + other) // 2] == pytest.approx(other - one, abs=1.5)
    assert lags[0] == 0 and lags[-1] == 0
    assert (lags.diff().abs() <= 1).all()  # time goes forward in both


def test_the_lag_from_a_to_b_is_that_from_b_to_a_with_the_other_sign() -> None:
    a, b = onsets([60, 130, 180, 260, 340]), onsets([70, 118, 190, 255])
    assert torch.equal(best_lags(a, b), -best_lags(b, a))


def test_between_onsets_that_meet_lags_change_evenly() -> None:
    lags = best_lags(onsets([60, 200, 340]), onsets([70, 190, 350]))
    for first, last in ((0, 65), (65, 195), (195, 345), (345, FRAMES - 1)):
        assert torch.allclose(lags[first : last + 1].diff(n=2), torch.zeros(()), atol=1e-5)


def test_of_ways_that_do_alike_the_straighter_is_taken() -> None:
    lags = best_lags(onsets(list(range(20, 380, 21))), onsets(list(range(12, 390, 9))))
    assert lags.abs().max() < 10 and lags.abs().mean() < 5


def test_for_a_weak_coincidence_far_away_nothing_is_moved() -> None:
    weak = 0.35 * onsets([220])
    assert not best_lags(onsets([200]), weak).any()
    assert best_lags(onsets([200]), onsets([220])).any()


@pytest.mark.parametrize("other", [[], [60 + 3 * LARGEST_LAG_FRAMES]])
def test_without_counterpart_nothing_is_moved(other: list[float]) -> None:
    assert not best_lags(onsets([60]), onsets(other)).any()


def test_equal_rhythms_and_the_shortest_sounds_stay_where_they_are() -> None:
    some = onsets([60, 130, 180])
    assert not best_lags(some, some).any()
    for frames in (1, 2, 4):
        assert not best_lags(torch.ones(frames), torch.zeros(frames)).any()
        assert onset_strength([torch.ones(16, frames)]).shape == (frames,)
