import math

import pytest
import torch

from audiovae.alignment import (
    LARGEST_RATIO,
    level_over_time_db,
    match_channels,
    mix_level_db,
    nearest_samples,
    stretch,
    to_one_time_axis,
)
from audiovae.config import Config, ModelConfig
from audiovae.errors import InputError
from audiovae.latents import Latents, count_latent_frames

CONFIG = Config()
HOP = CONFIG.latent_hop_length
SHORT_MODEL = ModelConfig(channels=(8,), band_strides=(4,), encoder_blocks=(1,), decoder_blocks=(1,))


def recording(samples=9000, *, sample_rate=44100, channels=1, seed=0, source="a.wav", checkpoint="f00d", **changes):
    frames = count_latent_frames(samples, sample_rate, CONFIG)
    mean = torch.randn(channels, 4, frames, generator=torch.Generator().manual_seed(seed))
    fields = {"logvar": None, "level_db": -20.0, "sample_rate": sample_rate, "samples": samples, "source": source}
    return Latents(**{"mean": mean, "checkpoint": checkpoint, **fields, **changes})


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000, 96000, 192000])
def test_nearest_samples_keeps_the_latent_frames(sample_rate):
    for frames in (1, 2, 3, 50, 431):
        for wanted in (0, frames * HOP * sample_rate / 44100, (frames - 1) * HOP * sample_rate / 44100, 10**9):
            samples = nearest_samples(wanted, frames, sample_rate, CONFIG)
            assert count_latent_frames(samples, sample_rate, CONFIG) == frames
        fewest, most = (nearest_samples(wanted, frames, sample_rate, CONFIG) for wanted in (0, 10**9))
        assert count_latent_frames(most + 1, sample_rate, CONFIG) == frames + 1
        assert fewest == 0 or count_latent_frames(fewest - 1, sample_rate, CONFIG) == frames - 1
        middle = (fewest + most) // 2
        assert nearest_samples(middle, frames, sample_rate, CONFIG) == middle


def test_stretch_leaves_the_recording_with_all_the_weight_untouched():
    a, b = recording(9000), recording(30000, seed=1)
    for weights, end in (([1.0, 0.0], 0), ([0.0, 1.0], 1)):
        aligned = to_one_time_axis([a, b], weights)
        assert torch.equal(aligned.means[end], (a, b)[end].mean)
        assert aligned.samples == (a, b)[end].samples


def test_stretch_has_the_length_between():
    a, b = recording(10000), recording(30000, seed=1)
    aligned = to_one_time_axis([a, b], [0.25, 0.75])
    assert aligned.samples == 25000
    assert aligned.means.shape == (2, 1, 4, 1 + 25000 // HOP)


def test_a_recording_that_is_far_too_long_is_made_shorter_before_it_is_stretched():
    a, b = recording(3000), recording(300_000, seed=1)
    for weights, ratio in (([0.5, 0.5], 300_000 / 151_500), ([0.99, 0.01], LARGEST_RATIO)):
        aligned = to_one_time_axis([a, b], weights)
        assert aligned.ratios[1] == pytest.approx(ratio)
        assert aligned.recordings[1].shape[-1] <= math.ceil(LARGEST_RATIO * aligned.latent_frames)
        assert torch.allclose(aligned.means[1].mean(), b.mean.mean(), atol=0.1)


def test_stretch_length_stays_in_range_when_extrapolating():
    a, b = recording(10000), recording(30000, seed=1)
    assert to_one_time_axis([a, b], [-1.0, 2.0]).samples == 30000
    assert to_one_time_axis([a, b], [3.0, -2.0]).samples == 10000


def test_stretch_keeps_a_ramp_a_ramp():
    ramp = torch.arange(20.0).expand(1, 4, 20)
    twice = stretch(ramp, 40, ratio=0.5)[0, 0]
    assert twice[1:-1].diff().allclose(torch.full((37,), 0.5))
    half = stretch(ramp, 10, ratio=2.0)[0, 0]
    assert torch.equal(half, torch.arange(10.0) * 2 + 0.5)  # the middle of each pair of frames


def test_stretch_puts_an_event_where_it_belongs_in_time():
    pulse = torch.zeros(1, 4, 40)
    pulse[..., 10] = 1.0
    for ratio in (0.5, 0.8, 1.25):
        out = stretch(pulse, round(40 / ratio), ratio=ratio)[0, 0]
        centre = float((out * (torch.arange(len(out)) + 0.5)).sum() / out.sum())
        assert centre * ratio == pytest.approx(10.5, abs=0.3)


def test_loop_repeats_whole_frames_up_to_the_longest():
    a, b = recording(3 * HOP + 7), recording(8 * HOP + 100, seed=1)
    for weights in ([1.0, 0.0], [0.5, 0.5]):
        aligned = to_one_time_axis([a, b], weights, fit="loop")
        assert aligned.samples == b.samples
        assert torch.equal(aligned.means[1], b.mean)
        assert torch.equal(aligned.means[0], a.mean[..., [0, 1, 2, 0, 1, 2, 0, 1, 2]])


def test_loop_of_less_than_one_whole_frame_repeats_what_there_is():
    a, b = recording(100), recording(3 * HOP, seed=1)
    assert torch.equal(to_one_time_axis([a, b], [0.5, 0.5], fit="loop").means[0], a.mean.expand(-1, -1, 4))


def test_trim_cuts_to_the_shortest():
    a, b = recording(9000), recording(30000, seed=1)
    aligned = to_one_time_axis([a, b], [0.2, 0.8], fit="trim")
    assert aligned.samples == 9000
    assert torch.equal(aligned.means[0], a.mean)
    assert torch.equal(aligned.means[1], b.mean[..., :5])


@pytest.mark.parametrize("fit", ["stretch", "loop", "trim"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_mixed_rates_take_the_highest_and_obey_the_frame_rule(fit, weight):
    generator = torch.Generator().manual_seed(1)
    for sample_rate, other in ((44100, 48000), (8000, 44100), (22050, 96000), (48000, 48000)):
        for hop in torch.randint(1, 20, (6,), generator=generator).tolist():
            # lengths at the edge of a frame, where rounding between rates could cross it
            a = recording(hop * HOP * sample_rate // 44100, sample_rate=sample_rate)
            b = recording(44100, sample_rate=other, seed=1)
            aligned = to_one_time_axis([a, b], [1 - weight, weight], fit=fit)
            assert aligned.sample_rate == other
            assert count_latent_frames(aligned.samples, other, CONFIG) == aligned.means.shape[-1]
            if fit == "stretch" and weight == 0.0:
                assert torch.equal(aligned.means[0], a.mean)
                assert aligned.samples / other == pytest.approx(a.duration_seconds, abs=1.1 / 8000)


def test_mono_is_doubled_for_stereo():
    mono, stereo = recording(), recording(channels=2, seed=1)
    first, second = match_channels([mono, stereo])
    assert torch.equal(first, torch.cat([mono.mean, mono.mean]))
    assert torch.equal(second, stereo.mean)


def test_half_precision_latents_are_mixed_in_single():
    half = recording(mean=torch.ones(1, 4, 5, dtype=torch.float16))
    assert to_one_time_axis([half, recording()], [0.5, 0.5]).means.dtype == torch.float32


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"checkpoint": "beef"}, "b.wav: encoded by checkpoint beef, but a.wav by f00d"),
        ({"channels": 3}, "a.wav: has 2 channels, but b.wav 3"),
        ({"mean": torch.zeros(1, 5, 3)}, "b.wav: has 5 latent channels, but a.wav 4"),
        (
            {"mean": torch.zeros(1, 4, 3)},
            "b.wav: 3 latent frames don't go with 9000 samples at 44100 Hz and a hop of ",
        ),
    ],
)
def test_recordings_that_do_not_go_together_are_refused(other, message):
    with pytest.raises(InputError, match=message):
        to_one_time_axis([recording(channels=2), recording(source="b.wav", seed=1, **other)], [0.5, 0.5])


def test_no_recordings_are_refused():
    with pytest.raises(InputError, match="latents: none given"):
        to_one_time_axis([], [])


def test_the_config_of_another_model_is_found_out():
    with pytest.raises(InputError, match="5 latent frames don't go with 9000 samples at 44100 Hz and a hop of 1024"):
        to_one_time_axis([recording()], [1.0], config=Config(model=SHORT_MODEL))
    double = recording(mean=torch.zeros(1, 4, 9))
    assert to_one_time_axis([double], [1.0], config=Config(model=SHORT_MODEL)).means.shape[-1] == 9


@pytest.mark.parametrize(
    ("levels", "weights", "expected"),
    [
        ([-20.0, -40.0], [0.5, 0.5], -30.0),
        ([-20.0, -40.0], [0.0, 1.0], -40.0),
        ([-20.0, -20.0, -20.0], [1 / 3, 1 / 3, 1 / 3], -20.0),
        ([-20.0, -math.inf], [1.0, 0.0], -20.0),
        ([-20.0, -math.inf], [0.0, 1.0], -math.inf),
        ([-20.0, -math.inf], [0.5, 0.5], -55.0),
        ([-100.0, -math.inf], [0.5, 0.5], -100.0),
        ([-math.inf, -math.inf], [0.5, 0.5], -math.inf),
        ([-20.0, -40.0], [-1.0, 2.0], -40.0),
    ],
)
def test_level_of_a_mix(levels, weights, expected):
    assert mix_level_db(levels, weights) == expected


def test_level_fades_steadily_from_silence():
    levels = [mix_level_db([-math.inf, -20.0], [1 - step / 10, step / 10]) for step in range(11)]
    assert levels == sorted(levels)
    assert levels[0] == -math.inf
    assert all(math.isfinite(level) for level in levels[1:])


@pytest.mark.parametrize(
    ("levels", "shares", "expected"),
    [
        ([-20.0, -40.0], [3.0, 1.0], -25.0),
        ([-20.0, -math.inf], [0.5, 0.5], -20.0),
        ([-20.0, -30.0], [0.0, 2.0], -30.0),
        ([-math.inf, -math.inf], [0.5, 0.5], -math.inf),
        ([-20.0, -30.0], [0.0, 0.0], -math.inf),
    ],
)
def test_level_over_time(levels, shares, expected):
    assert level_over_time_db(levels, shares) == expected
