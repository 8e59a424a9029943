import math
from functools import partial
from typing import get_args

import pytest
import torch

from audiovae.mixing import PathShape, between, lerp, nlerp, slerp, spherical_mean

PATHS = get_args(PathShape)
PAIR = torch.randn(2, 2, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()


def frames(*vectors) -> torch.Tensor:
    """Latent frames given one by one, as [latent_channels, latent_frames]."""
    return torch.tensor(vectors).T


def test_lerp_is_the_straight_line():
    assert torch.equal(lerp(frames([0.0, 2.0]), frames([4.0, 0.0]), 0.25), frames([1.0, 1.5]))
    assert torch.equal(lerp(frames([0.0, 2.0]), frames([4.0, 0.0]), 2), frames([8.0, -2.0]))


def test_slerp_walks_the_quarter_circle():
    east, north = frames([1.0, 0.0]), frames([0.0, 1.0])
    for weight, degrees in ((0.5, 45), (1 / 3, 30), (2, 180), (-1, -90)):
        angle = math.radians(degrees)
        assert slerp(east, north, weight).allclose(frames([math.cos(angle), math.sin(angle)]), atol=1e-6)


def test_slerp_moves_the_norm_straight():
    out = slerp(frames([2.0, 0.0]), frames([0.0, 4.0]), 0.5)
    assert out.allclose(frames([3 / math.sqrt(2), 3 / math.sqrt(2)]))
    a, b = PAIR
    expected = torch.lerp(a.norm(dim=1), b.norm(dim=1), 0.3)
    assert slerp(a, b, 0.3).norm(dim=1).allclose(expected, rtol=1e-5)
    assert slerp(frames([1.0, 0.0]), frames([0.0, 5.0]), -1.0).norm() == 0  # not turned round


def test_slerp_turns_evenly():
    a, b = (x / x.norm(dim=1, keepdim=True) for x in PAIR)
    whole = (a * b).sum(1).acos()
    assert (a * slerp(a, b, 0.3)).sum(1).acos().allclose(0.3 * whole, atol=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_ends_are_exact(path):
    a, b = PAIR
    function = partial(between, path=path)
    b = 1e6 * b
    assert torch.equal(function(a, b, 0), a)
    assert torch.equal(function(a, b, 1), b)
    weights = torch.linspace(0, 1, 50)
    moving = function(a, b, weights)
    assert torch.equal(moving[..., 0], a[..., 0])
    assert torch.equal(moving[..., -1], b[..., -1])
    assert moving[..., 20:21].allclose(function(a[..., 20:21], b[..., 20:21], float(weights[20])))


def test_slerp_takes_the_straight_line_where_there_is_no_circle():
    a = frames([1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [3.0, 0.0])
    b = frames([2.0, 4.0], [-2.0, -4.0], [1.0, 0.0], [0.0, 0.0], [3.0, 1e-7])
    for weight in (0.25, 0.5, 0.75, 1.5):
        assert slerp(a, b, weight).allclose(lerp(a, b, weight))


def test_slerp_keeps_nan_to_its_frame():
    a, b = frames([1.0, 0.0], [1.0, 0.0], [math.inf, 0.0]), frames([math.nan, 1.0], [0.0, 1.0], [0.0, 1.0])
    out = slerp(a, b, 0.5)
    assert out[0, 0].isnan()
    assert out[1, 0] == 0.5
    assert out[:, 1].allclose(torch.full((2,), math.sqrt(0.5)))
    assert torch.equal(slerp(a, b, 0), a)


def test_slerp_is_continuous_next_to_parallel():
    a = torch.tensor([[1.0], [0.0]])
    for angle in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        b = torch.tensor([[math.cos(angle)], [math.sin(angle)]])
        expected = torch.tensor([[math.cos(angle / 4)], [math.sin(angle / 4)]])
        assert (slerp(a, b, 0.25) - expected).abs().max() < 1e-6


def test_nlerp_keeps_the_length_of_frames_at_right_angles_and_less():
    east, north = frames([1.0, 0.0]), frames([0.0, 4.0])
    made = nlerp(torch.stack([east, north]), torch.tensor([0.75, 0.25]))
    assert made.allclose(frames([0.75, 1.0]) * 1.75 / 1.25)
    a, b = PAIR
    near = a + 0.5 * b
    expected = torch.lerp(a.norm(dim=1), near.norm(dim=1), 0.3)
    assert between(a, near, 0.3, "normalised").norm(dim=1).allclose(expected, rtol=1e-5)
    axes = torch.eye(3)[:, :, None]
    assert nlerp(axes, torch.full((3,), 1 / 3)).allclose(torch.full((3, 1), math.sqrt(1 / 3)))


def test_nlerp_goes_the_straight_lines_way():
    a, b = PAIR
    made, straight = between(a, b, 0.3, "normalised"), lerp(a, b, 0.3)
    assert torch.cosine_similarity(made, straight, dim=1).allclose(torch.ones(1), atol=1e-5)


def test_nlerp_does_not_blow_up_what_opposite_frames_leave():
    a = frames([1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [math.nan, 0.0])
    b = frames([-1.0, 0.0], [-1.0, 0.01], [0.0, 2.0], [0.0, 0.0], [1.0, 0.0])
    made = between(a, b, 0.5, "normalised")
    assert made[:, 0].tolist() == [0.0, 0.0]
    assert 0.005 < made[:, 1].norm() < 0.01
    assert made[:, 2].tolist() == [0.0, 1.0] and made[:, 3].tolist() == [0.0, 0.0]
    assert made[0, 4].isnan()


def test_spherical_mean_of_two_is_slerp():
    a, b = PAIR
    assert spherical_mean(torch.stack([a, b]), [0.7, 0.3]).allclose(slerp(a, b, 0.3), atol=1e-5)


def test_spherical_mean_of_three_axes_is_their_diagonal():
    axes = torch.eye(3)[:, :, None]
    third = [1 / 3, 1 / 3, 1 / 3]
    assert spherical_mean(axes, third).allclose(torch.full((3, 1), math.sqrt(1 / 3)))
    assert spherical_mean(2 * axes, third).allclose(torch.full((3, 1), 2 * math.sqrt(1 / 3)))


def test_spherical_mean_balances_the_steps_to_all_points():
    points = torch.randn(4, 8, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    points /= points.norm(dim=1, keepdim=True)
    shares = [0.1, 0.2, 0.3, 0.4]
    middle = spherical_mean(points, shares)
    cosine = (points * middle).sum(1, keepdim=True)
    steps_to = (points - cosine * middle) * cosine.acos() / (1 - cosine**2).sqrt()
    assert torch.einsum("r,rcf->cf", torch.tensor(shares, dtype=torch.float64), steps_to).abs().max() < 1e-6


def test_spherical_mean_without_a_direction_is_straight():
    points = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, math.nan]])[:, None, :]
    out = spherical_mean(points, [0.5, 0.5, 0.0])
    assert out[0, :2].tolist() == [0.0, 0.0]
    assert out[0, 2].isnan()


def test_beyond_its_ends_the_normalised_path_is_the_straight_line():
    a, b = PAIR
    for weight in (-0.25, 1.5, 100):
        torch.testing.assert_close(between(a, b, weight, "normalised"), lerp(a, b, weight))
