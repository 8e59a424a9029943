import math
from types import SimpleNamespace

import pytest
import torch

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.generation import DRAWS, _generator, generate
from audiovae.latents import Latents
from audiovae.model.prior import Prior

CHANNELS = 6


def prior() -> Prior:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, CHANNELS, 17, generator=generator)
    return Prior.fit(3.0 + noise[:, :, 1:] + 0.8 * noise[:, :, :-1])


def all_channels(mean: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(mean, (0, 0, 0, CHANNELS - mean.shape[1]))


CODEC = SimpleNamespace(
    prior=prior(),
    config=Config(),
    fingerprint="f00d",
    all_channels=all_channels,
    decoded_level_db=lambda sound: -20.0,
)


def recording(**changes) -> Latents:
    mean = CODEC.prior.sample(44, count=2, generator=torch.Generator().manual_seed(9))
    fields = {"source": "a.wav", "sample_rate": 48000, "samples": 96000, "level_db": -31.0, "checkpoint": "f00d"}
    return Latents(**{"mean": mean, "logvar": torch.zeros_like(mean), **fields, **changes})


@pytest.mark.parametrize(("seconds", "samples"), [(4, 176400), (0.05, 2205), (1.00001, 44100), (2.5, 110250)])
def test_duration_is_kept_to_the_sample(seconds, samples):
    sound = generate(CODEC, duration_seconds=seconds)
    assert (sound.samples, sound.sample_rate) == (samples, 44100)
    assert sound.mean.shape == (1, CHANNELS, 1 + samples // 2048)
    assert (sound.level_db, sound.checkpoint, sound.logvar) == (-20.0, "f00d", None)
    assert sound.source == "generate(seed=0, index=0)"


def test_seed_and_index_name_the_sound():
    one = generate(CODEC, seed=3, index=5)
    assert torch.equal(generate(CODEC, seed=3, index=5).mean, one.mean)
    for seed, index in ((3, 6), (4, 5), (4, 4), (5, 3), (8, 0), (0, 8)):
        assert not torch.allclose(generate(CODEC, seed=seed, index=index).mean, one.mean, atol=0.1)


@pytest.mark.parametrize("levels", [[-49.0], [-51.0, -70.0, -49.0], [-70.0] * DRAWS])
def test_what_is_next_to_silence_is_drawn_anew(levels):
    """The first one that can be heard; of nothing but silence, the last."""
    left = iter(levels)
    codec = SimpleNamespace(**vars(CODEC) | {"decoded_level_db": lambda sound: next(left)})
    generator = _generator(3, 5)
    expected = [CODEC.prior.sample(22, count=1, generator=generator) for _ in levels][-1]
    assert torch.equal(generate(codec, seed=3, index=5, duration_seconds=1.0).mean, expected)
    assert list(left) == []


def test_generation_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    generate(CODEC)
    assert torch.equal(torch.randn(3), expected)


def test_many_sounds_have_the_prior_s_moments():
    sounds = torch.cat([generate(CODEC, duration_seconds=1.0, index=index).mean for index in range(300)])
    variance = CODEC.prior.variance
    assert (sounds.mean((0, 2)) - CODEC.prior.mean).abs().max() < 0.1
    assert (sounds.var((0, 2)) / variance - 1).abs().max() < 0.1


def test_variation_by_0_is_the_recording_exactly():
    like = recording()
    assert torch.equal(generate(CODEC, like=like, amount=0).mean, like.mean)


def test_latents_of_fewer_channels_vary_as_those_whose_others_are_0():
    few, zeros = recording(), recording()
    zeros.mean[:, 4:] = 0
    few = recording(mean=zeros.mean[:, :4], logvar=None)
    assert torch.equal(generate(CODEC, like=few, seed=1).mean, generate(CODEC, like=zeros, seed=1).mean)


def test_variation_by_1_is_a_new_sound_of_the_recording_s_kind():
    like = recording()
    varied = generate(CODEC, like=like, amount=1, seed=2, index=1)
    own = {"generator": _generator(2, 1), "kind": CODEC.prior.kind_of(like.mean)}
    new = CODEC.prior.sample(like.latent_frames, count=1, **own)
    assert varied.mean.allclose(new.expand(2, -1, -1), atol=1e-5)


def test_variation_keeps_the_recording_s_facts():
    varied = generate(CODEC, like=recording(), amount=0.3)
    assert (varied.samples, varied.sample_rate, varied.channels, varied.level_db) == (96000, 48000, 2, -31.0)
    assert varied.logvar is None
    assert varied.source == "generate(like=a.wav, amount=0.3, seed=0, index=0)"
    assert generate(CODEC, like=recording(level_db=-math.inf)).level_db == -math.inf


def test_variation_goes_further_by_amount():
    like = recording()
    distances = [(generate(CODEC, like=like, amount=amount).mean - like.mean).norm() for amount in (0.1, 0.3, 0.6, 1)]
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_variation_keeps_the_variance_and_the_centre():
    like = recording()
    varied = torch.stack([generate(CODEC, like=like, amount=0.6, index=index).mean[0] for index in range(300)])
    kind = CODEC.prior.kind_of(like.mean)
    one = CODEC.prior.sample(44, count=2000, generator=torch.Generator().manual_seed(1), kind=kind)
    kinds_centre = CODEC.prior.centre[kind][:, None]
    centre = kinds_centre + 0.8 * (like.mean[0] - kinds_centre)
    assert (varied.mean(0) - centre).abs().max() < 0.3
    assert (varied.var(0).mean(1) / (0.36 * one.var(0).mean(1)) - 1).abs().max() < 0.15


def test_variation_moves_both_channels_alike():
    like = recording()
    moved = generate(CODEC, like=like, amount=0.5).mean - math.sqrt(0.75) * like.mean
    assert moved[0].allclose(moved[1], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration_seconds": 0.04}, "duration 0.04: must be 0.05 to 3600 seconds"),
        ({"duration_seconds": 3601}, "duration 3601: must be 0.05 to 3600 seconds"),
        ({"duration_seconds": math.nan}, "duration nan: must be"),
        ({"seed": -1}, "seed -1, index 0: must not be negative"),
        ({"index": -1}, "seed 0, index -1: must not be negative"),
        ({"like": recording(), "amount": 1.1}, "amount 1.1: must be 0 to 1"),
        ({"like": recording(), "amount": -0.1}, "amount -0.1: must be 0 to 1"),
        ({"like": recording(), "amount": math.nan}, "amount nan: must be 0 to 1"),
        (
            {"like": recording(checkpoint="beef")},
            "a.wav: encoded by checkpoint beef, but this one is f00d",
        ),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        generate(CODEC, **options)
