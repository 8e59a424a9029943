"""Some sounds are brief, with silence around them: no mix with a steady one may be a blow, nor may its level jump."""

import itertools

import pytest
import torch

import audiovae
from audiovae.alignment import SILENT_DB
from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.curve import Curve
from audiovae.interpolation import Align, Morph, interpolate, interpolate_curve
from audiovae.latents import Latents

RATE = 44_100


@pytest.fixture(scope="module")
def codec() -> Codec:
    return audiovae.load(device="cpu")


@pytest.fixture(scope="module")
def ends(codec: Codec) -> tuple[Latents, Latents]:
    """A tone that goes on, and one hit in as much silence."""
    seconds = torch.arange(3 * RATE) / RATE
    tone = sum((torch.sin(2 * torch.pi * 220 * number * seconds) / number for number in range(1, 20)), torch.zeros(()))
    hit = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0)) * torch.exp(-((seconds - 1) / 0.05).abs())
    hit = torch.where(seconds < 1, 0.0, hit)
    first, second = (codec.encode(Audio(0.1 * one[None], RATE)) for one in (tone, hit))
    return first, second


def loudest_db(codec: Codec, latents: Latents) -> float:
    return latents.level_db + codec.crest_db(latents)


@pytest.mark.parametrize("align", ["both", "none"])
def test_where_a_steady_sound_meets_a_brief_one_there_is_no_blow(
    codec: Codec, ends: tuple[Latents, Latents], align: Align
) -> None:
    morph = Morph(ends, align=align, codec=codec)
    weights = [step / 25 for step in range(26)]
    path = [loudest_db(codec, morph.at([1 - weight, weight])) for weight in weights]
    for weight, loudest in zip(weights, path, strict=True):
        assert loudest < (1 - weight) * path[0] + weight * path[-1] + 3.01
    assert max(abs(late - early) for early, late in itertools.pairwise(path)) < 2.5


def test_a_curve_has_no_blow_either(codec: Codec, ends: tuple[Latents, Latents]) -> None:
    made = interpolate_curve(*ends, Curve.parse("0:0.5"), codec=codec)
    assert loudest_db(codec, made) < sum(loudest_db(codec, one) for one in ends) / 2 + 3.01


def test_a_curve_may_be_as_loud_as_the_louder_of_the_sounds_that_it_moves_between(
    codec: Codec, ends: tuple[Latents, Latents]
) -> None:
    seconds = torch.arange(3 * RATE) / RATE
    swell = 1 + 5 * torch.exp(-((seconds - 0.3) / 0.1).square())
    stressed, steady = codec.encode(Audio(codec.decode(ends[0]).waveform * swell / 10, RATE)), ends[0]
    assert codec.crest_db(stressed) > 10
    made = interpolate_curve(stressed, steady, Curve.parse("0:0,1:1"), codec=codec)
    assert made.level_db == pytest.approx((stressed.level_db + steady.level_db) / 2)


def test_of_what_is_trimmed_only_the_rest_counts(codec: Codec, ends: tuple[Latents, Latents]) -> None:
    """A tone that ends in a far louder stroke, which is cut off, is a tone like any other."""
    tone, hit = (codec.decode(one).waveform for one in ends)
    stroke = torch.cat([tone, tone[:, :RATE] / 2, 10 * hit[:, RATE : 3 * RATE // 2]], dim=1)
    longer = codec.encode(Audio(stroke / 10, RATE))
    assert codec.crest_db(longer) > 10
    morph = Morph([ends[1], longer], fit="trim", codec=codec)
    first, between, last = (loudest_db(codec, morph.at([1 - weight, weight])) for weight in (0, 0.5, 1))
    assert between < (first + last) / 2 + 3.01


def test_steady_sounds_have_the_level_between(codec: Codec, ends: tuple[Latents, Latents]) -> None:
    steady = ends[0]
    softer = Latents(steady.mean, None, "softer", RATE, steady.samples, steady.level_db - 20, steady.checkpoint)
    for weight in (0.0, 0.3, 1.0):
        made = interpolate(steady, softer, weight=weight, codec=codec)
        assert made.level_db == pytest.approx(steady.level_db - 20 * weight)


def test_a_brief_sound_fades_to_silence_at_the_level_between(codec: Codec, ends: tuple[Latents, Latents]) -> None:
    silence = codec.encode(Audio(torch.zeros(1, 3 * RATE), RATE))
    for one in ends:
        made = interpolate(one, silence, weight=0.5, codec=codec)
        assert made.level_db == pytest.approx((one.level_db - 90) / 2, abs=2)
    assert interpolate(silence, silence, codec=codec).level_db == silence.level_db


def test_what_lies_beyond_silence_has_the_lowest_level_of_a_mix(codec: Codec, ends: tuple[Latents, Latents]) -> None:
    silence = codec.encode(Audio(torch.zeros(1, 3 * RATE), RATE))
    assert interpolate(ends[0], silence, weight=1.5, codec=codec).level_db == SILENT_DB
