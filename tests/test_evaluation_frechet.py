"""Fréchet distances of sets whose distance is known, and the embeddings that they are measured in."""

import math

import pytest
import torch
from conftest import noise, tone

from audiovae.evaluation.frechet import MFCCS, frechet_distance, mean_change_db, mfcc_features
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.musicnn import embed, why_not_musicnn
from audiovae.evaluation.tensor_bundle import read_bundle

RATE = 44_100


def drawn(count: int, *, scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)) + shift


def test_a_set_has_no_distance_to_itself() -> None:
    assert frechet_distance(drawn(50), drawn(50)) == pytest.approx(0, abs=1e-9)


def test_a_shift_counts_squared() -> None:
    assert frechet_distance(drawn(50), drawn(50) + 3) == pytest.approx(5 * 9, rel=1e-6)


def test_scaled_gaussians_are_as_far_as_their_deviations() -> None:
    # ||m_a - m_b||² is small; tr(C + 4 C - 2 (4 C²)^½) = tr(C)
    a = drawn(4000)
    expected = float((a.mean(0) * -1).square().sum() + a.var(0).sum())
    assert frechet_distance(a, 2 * a) == pytest.approx(expected, rel=1e-4)


def test_the_order_of_the_sets_does_not_matter() -> None:
    a, b = (
        drawn(40),
        drawn(60, scale=0.5, shift=1, seed=1) @ torch.rand(5, 5, generator=torch.Generator().manual_seed(2)),
    )
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_fewer_sounds_than_features_have_a_distance_and_one_has_none() -> None:
    assert frechet_distance(drawn(3), drawn(3, shift=1)) == pytest.approx(5, rel=1e-5)
    assert math.isnan(frechet_distance(drawn(1), drawn(9)))


def test_mfcc_features_do_not_hear_level_and_hear_colour() -> None:
    def features(sound: torch.Tensor) -> torch.Tensor:
        return mfcc_features(stft_magnitude(sound)[0], sample_rate=RATE, hop_length=512)

    sound = noise(samples=2 * RATE)
    found = features(sound)
    assert found.shape == (3, 3 * MFCCS)
    torch.testing.assert_close(features(sound / 4), found, atol=1e-2, rtol=0)
    assert (features(tone(samples=2 * RATE)) - found).norm() > 20
    assert mean_change_db(found) > 2 * mean_change_db(features(tone(samples=2 * RATE))) > 0
    assert features(noise(samples=4_000)).shape == (1, 3 * MFCCS)


def test_a_bundle_of_tensorflow_is_read() -> None:
    """One float tensor of shape 2 x 2 named "ab", written by hand."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    data = values.numpy().tobytes()
    shape = b"\x12\x02\x08\x02" * 2
    entry = b"\x08\x01" + b"\x12" + bytes([len(shape)]) + shape + b"\x28\x10"
    block = b"\x00\x02" + bytes([len(entry)]) + b"ab" + entry + b"\x00\x00\x00\x00\x01\x00\x00\x00"
    handle = bytes([0, len(block)])
    table = b"\x00\x02\x02" + b"ab" + handle + b"\x00\x00\x00\x00\x01\x00\x00\x00"
    start = len(block) + 5
    footer = bytes([0, 0, start, len(table)]).ljust(48, b"\x00")
    index = block + b"\x00" * 5 + table + b"\x00" * 5 + footer
    torch.testing.assert_close(read_bundle(index, data)["ab"], values)


@pytest.mark.skipif(why_not_musicnn() is not None, reason="musicnn is not installed")
def test_musicnn_embeds_windows_of_3_seconds_and_tells_sounds_apart() -> None:
    a, b = embed(tone(samples=5 * RATE), RATE), embed(noise(samples=2 * RATE), RATE)
    assert a.shape == (2, 200) and b.shape == (1, 200)
    torch.testing.assert_close(embed(tone(samples=5 * RATE), RATE), a)
    assert torch.nn.functional.cosine_similarity(a[0], b[0], dim=0) < 0.5


def test_without_musicnn_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiovae.evaluation.musicnn.find_spec", lambda name: None)
    assert "pip install --no-deps musicnn" in (why_not_musicnn() or "")
