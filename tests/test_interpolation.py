import math
from functools import partial
from typing import get_args

import pytest
import torch

from audiovae import interpolation
from audiovae.config import Config
from audiovae.curve import Curve
from audiovae.errors import InputError
from audiovae.interpolation import Morph, steps
from audiovae.latents import Latents, count_latent_frames
from audiovae.mixing import PathShape

# Latents as they are: these were made by no model. What aligning their pitches does is test_note_alignment's.
interpolate = partial(interpolation.interpolate, align="none")
blend = partial(interpolation.blend, align="none")
interpolate_curve = partial(interpolation.interpolate_curve, align="none")

CONFIG = Config()
PATHS = get_args(PathShape)


def recording(samples=9000, *, sample_rate=44100, channels=1, seed=0, source="a.wav", level_db=-20.0, checkpoint="f"):
    frames = count_latent_frames(samples, sample_rate, CONFIG)
    mean = torch.randn(channels, 8, frames, generator=torch.Generator().manual_seed(seed))
    return Latents(mean, torch.zeros_like(mean), source, sample_rate, samples, level_db, checkpoint)


def assert_obeys_the_frame_rule(latents):
    assert latents.latent_frames == count_latent_frames(latents.samples, latents.sample_rate, CONFIG)


@pytest.mark.parametrize("path", PATHS)
def test_weights_0_and_1_are_the_recordings_exactly(path):
    a, b = recording(9000, level_db=-12.0), recording(50000, seed=1, level_db=-math.inf)
    for weight, end in ((0, a), (1, b)):
        out = interpolate(a, b, weight=weight, path=path)
        assert torch.equal(out.mean, end.mean)
        assert (out.samples, out.sample_rate, out.level_db) == (end.samples, end.sample_rate, end.level_db)
        assert out.logvar is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fit", ["stretch", "loop", "trim"])
def test_interpolation_is_symmetric(path, fit):
    a, b = recording(9000, level_db=-12.0), recording(50000, seed=1, sample_rate=48000, channels=2)
    for weight in (0.0, 0.2, 0.5, 0.9):
        one = interpolate(a, b, weight=weight, path=path, fit=fit)
        other = interpolate(b, a, weight=1 - weight, path=path, fit=fit)
        assert one.mean.allclose(other.mean, atol=1e-5)
        assert (one.samples, one.sample_rate) == (other.samples, other.sample_rate)
        assert one.level_db == pytest.approx(other.level_db)
        assert_obeys_the_frame_rule(one)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", [0.4, -1, 2, 100])
def test_a_recording_interpolated_with_itself_is_itself(path, weight):
    a = recording(level_db=-33.0)
    out = interpolate(a, a, weight=weight, path=path)
    assert out.mean.allclose(a.mean, atol=1e-4)
    assert (out.samples, out.level_db) == (a.samples, pytest.approx(a.level_db))
    assert blend([a, a, a], [2, -1, 1], path=path).mean.allclose(a.mean, atol=1e-4)


def test_provenance_says_what_it_was_made_of():
    a, b = recording(source="flute.wav"), recording(source="cello.flac", seed=1)
    assert interpolate(a, b).source == "interpolate(flute.wav, cello.flac, weight=0.5, align=none)"
    assert (
        interpolate(a, b, weight=0.25, path="spherical", fit="loop").source
        == "interpolate(flute.wav, cello.flac, weight=0.25, path=spherical, fit=loop, align=none)"
    )
    assert blend([a, b], [1, 3]).source == "blend(flute.wav: 0.25, cello.flac: 0.75, align=none)"
    curve = Curve.parse("0:0,1:1")
    assert interpolate_curve(a, b, curve).source == "interpolate(flute.wav, cello.flac, curve=0:0,1:1, align=none)"
    assert interpolate(a, b).checkpoint == "f"


def test_blend_is_the_weighted_mean():
    a, b, c = (recording(seed=seed, level_db=level) for seed, level in ((0, -10.0), (1, -20.0), (2, -40.0)))
    out = blend([a, b, c], [1, 1, 2], path="linear")
    assert out.mean.allclose(0.25 * a.mean + 0.25 * b.mean + 0.5 * c.mean)
    assert out.level_db == pytest.approx(-27.5)


@pytest.mark.parametrize("path", PATHS)
def test_blend_does_not_depend_on_scale_or_order(path):
    a, b, c = recording(9000), recording(20000, seed=1), recording(50000, seed=2)
    out = blend([a, b, c], [0.2, 0.5, 0.3], path=path)
    for other in (blend([a, b, c], [2, 5, 3], path=path), blend([c, a, b], [3, 2, 5], path=path)):
        assert out.mean.allclose(other.mean, atol=1e-5)
        assert out.samples == other.samples
    assert_obeys_the_frame_rule(out)


def test_blend_of_one_weight_is_that_recording_exactly():
    recordings = [recording(9000), recording(20000, seed=1), recording(50000, seed=2)]
    for path in PATHS:
        out = blend(recordings, [0, 7, 0], path=path)
        assert torch.equal(out.mean, recordings[1].mean)
        assert out.samples == 20000


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.0, 0.0], "weights 0, 0: must be finite and must not sum to 0"),
        ([1.0, -1.0], "weights 1, -1: must be finite and must not sum to 0"),
        ([1.0, -1.0 + 1e-12], "weights 1, -1: must be finite and must not sum to 0"),
        ([math.nan, 1.0], "weights nan, 1: must be finite"),
        ([math.inf, 1.0], "weights inf, 1: must be finite"),
        ([1.0], "weights 1: 1 for 2 recordings"),
    ],
)
def test_weights_that_can_not_be_normalised_are_refused(weights, message):
    with pytest.raises(InputError, match=message):
        blend([recording(), recording(seed=1)], weights)


def test_recordings_of_different_models_are_refused():
    a, b = recording(), recording(source="b.wav", checkpoint="g")
    for function in (interpolate, lambda a, b: interpolate_curve(a, b, Curve.parse("0:0,1:1"))):
        with pytest.raises(InputError, match=r"b\.wav: encoded by checkpoint g, but a\.wav by f"):
            function(a, b)


@pytest.mark.parametrize(
    ("text", "curve"),
    [
        ("0:0,1:1", Curve((0.0, 1.0), (0.0, 1.0))),
        (" 0 : 1 , 0.5:0 ", Curve((0.0, 0.5), (1.0, 0.0))),
        ("0s:0,2.5s:1", Curve((0.0, 2.5), (0.0, 1.0), in_seconds=True)),
        ("0:.5", Curve((0.0,), (0.5,))),
    ],
)
def test_curves_are_parsed_and_printed(text, curve):
    assert Curve.parse(text) == curve
    assert Curve.parse(str(curve)) == curve


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not time:weight, as in 0:0,1:1"),
        ("0:0,", "'' is not time:weight"),
        ("0:0,1", "'1' is not time:weight"),
        ("0:0,one:1", "'one:1' is not time:weight"),
        ("0:0:0", "'0:0:0' is not time:weight"),
        ("0:0,1s:1", "times must be all shares or all seconds"),
        ("0:0,2:1", r"times must be shares from 0 to 1 \(write 2.5s for seconds\)"),
        ("-1s:0,2s:1", "times must be seconds from 0 on"),
        ("0:0,nan:1", "times must be shares"),
        ("0s:0,infs:1", "times must be seconds"),
        ("0.5:0,0.5:1", "times must increase"),
        ("1:0,0:1", "times must increase"),
        ("0:0,1:1.5", "weights must be 0 to 1"),
        ("0:nan,1:1", "weights must be 0 to 1"),
    ],
)
def test_curves_that_make_no_sense_are_refused(text, reason):
    with pytest.raises(InputError, match=f"^curve {text}: {reason}"):
        Curve.parse(text)


def test_curve_is_straight_between_and_constant_beyond():
    shares = torch.tensor([0.0, 0.25, 0.375, 0.5, 1.0], dtype=torch.float64)
    expected = [0.2, 0.2, 0.6, 1.0, 1.0]
    assert Curve.parse("0.25:0.2,0.5:1").weights_at(shares, duration_seconds=8.0).tolist() == pytest.approx(expected)
    assert Curve.parse("2s:0.2,4s:1").weights_at(shares, duration_seconds=8.0).tolist() == pytest.approx(expected)


def test_mean_weight_of_known_curves():
    assert Curve.parse("0:0,1:1").mean_weight(3.0) == 0.5
    assert Curve.parse("0.5:0,1:1").mean_weight(3.0) == 0.25
    assert Curve.parse("0s:0,2s:1").mean_weight(4.0) == 0.75
    assert Curve.parse("0s:0,2s:1").mean_weight(1.0) == 0.25
    assert Curve.parse("0s:0,2s:1").mean_weight(0.0) == 0.0
    assert Curve.parse("0:1,0.45:1,0.63:1,0.66:1,0.75:1,1:1").mean_weight(1.0) == 1.0


@pytest.mark.parametrize("path", PATHS)
def test_curve_moves_from_one_to_the_other(path):
    a, b = recording(50000, level_db=-10.0), recording(50000, seed=1, level_db=-20.0)
    out = interpolate_curve(a, b, Curve.parse("0:0,0.25:0,0.75:1"), path=path)
    assert (out.samples, out.level_db) == (50000, -15.0)
    quarter = out.latent_frames // 4
    assert torch.equal(out.mean[..., :quarter], a.mean[..., :quarter])
    assert torch.equal(out.mean[..., -quarter:], b.mean[..., -quarter:])
    middle = out.latent_frames // 2
    assert out.mean[..., middle].allclose(interpolate(a, b, path=path).mean[..., middle], atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", ["0:0.3", "1s:0.3,2s:0.3"])
def test_constant_curve_is_interpolate(text, path):
    a, b = recording(9000), recording(50000, seed=1, level_db=-30.0)
    moving, fixed = interpolate_curve(a, b, Curve.parse(text), path=path), interpolate(a, b, weight=0.3, path=path)
    assert moving.mean.allclose(fixed.mean, atol=1e-5)
    assert moving.samples == fixed.samples
    assert moving.level_db == pytest.approx(fixed.level_db)
    assert_obeys_the_frame_rule(moving)


def test_a_curve_that_goes_on_after_the_sound_is_told_of(caplog):
    a, b = recording(50000), recording(50000, seed=1)
    within = f"0s:0,{a.duration_seconds / 2:g}s:1"
    interpolate_curve(a, b, Curve.parse(within))
    assert not caplog.messages
    interpolate_curve(a, b, Curve.parse("0s:0,99s:1"))
    assert caplog.messages == [f"curve 0s:0,99s:1: the sound ends before it, after {a.duration_seconds:.2f} s"]


def test_curve_out_of_silence_keeps_the_sound_s_level():
    silence, sound = recording(level_db=-math.inf), recording(seed=1, level_db=-18.0)
    assert interpolate_curve(silence, sound, Curve.parse("0:0,1:1")).level_db == -18.0


def test_steps_are_even_and_end_exactly():
    assert steps(2) == [0.0, 1.0]
    assert steps(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(InputError, match="steps 1: a path has at least 2"):
        steps(1)


def test_what_a_morph_can_not_do_is_one_line():
    with pytest.raises(InputError, match=r"^curve 0:0,1:1: goes between two recordings, not 3$"):
        Morph([recording()] * 3, align="none").along(Curve.parse("0:0,1:1"))
    with pytest.raises(InputError, match=r"^weights 1: 1 for 2 recordings$"):
        Morph([recording()] * 2, align="none").at([1])
