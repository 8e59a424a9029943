"""The morph measures tell truth from crossfades, on tones whose in-betweens are known."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from audiovae.evaluation.in_betweens import PHRASE_PAIRS
from audiovae.evaluation.log_mel import log_mel_db, stft_magnitude
from audiovae.evaluation.morphing import (
    TruePath,
    crossfade_residual,
    db_average,
    db_residual,
    descriptor_nonlinearity,
    hard_switch,
    onset_contrast,
    second_pitch_salience,
    step_variation,
    transport,
)
from audiovae.evaluation.tones import PHRASE_SECONDS, SECONDS, Tone, chord_pairs, phrase_pairs, tone_pairs

RATE = 44_100
WEIGHTS = [step / 8 for step in range(9)]
PAIRS = 5


def magnitudes(first: Any, last: Any) -> dict[str, Tensor]:
    """The true path between tones, or phrases, and its controls; all sounds at one level."""
    sounds = [first.between(last, weight).waveform(RATE) for weight in WEIGHTS]
    sounds = [0.1 * sound / sound.square().mean().sqrt() for sound in sounds]
    truth = torch.cat([stft_magnitude(sound) for sound in sounds])
    return {
        "truth": truth,
        "mix": torch.cat([stft_magnitude(torch.lerp(sounds[0], sounds[-1], weight)) for weight in WEIGHTS]),
        "db": torch.stack([db_average(truth[0], truth[-1], weight) for weight in WEIGHTS]),
        "switch": torch.stack([hard_switch(truth[0], truth[-1], weight) for weight in WEIGHTS]),
    }


@pytest.fixture(scope="module")
def paths() -> list[dict[str, Tensor]]:
    return [magnitudes(*pair) for pair in tone_pairs(PAIRS, same_pitch=False)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_truth_relative_error_is_0_for_the_truth_1_for_the_db_average_and_more_for_a_mix(
    paths: list[dict[str, Tensor]],
) -> None:
    for path in paths:
        truth = TruePath(path["truth"], RATE)
        assert truth.relative_error(log_mel_db(path["truth"], RATE)) == 0
        assert truth.relative_error(log_mel_db(path["db"], RATE)) == 1
        assert truth.relative_error(log_mel_db(path["mix"], RATE)) > 1
        assert truth.relative_error(log_mel_db(path["switch"], RATE)) > 1


def test_crossfades_are_explained_by_their_ends_and_the_truth_is_not(paths: list[dict[str, Tensor]]) -> None:
    for path in paths:
        assert crossfade_residual(path["switch"]) == pytest.approx(0, abs=1e-6)
        assert db_residual(log_mel_db(path["switch"], RATE)) == pytest.approx(0, abs=1e-4)
        assert crossfade_residual(path["mix"]) < 0.15
        assert crossfade_residual(path["truth"]) > 0.85
        assert db_residual(log_mel_db(path["truth"], RATE)) > 0.7
    # In dB, the average is the crossfade.
    assert mean([db_residual(log_mel_db(path["db"], RATE)) for path in paths]) < 0.35


def test_a_residual_can_not_be_explained_by_negative_shares() -> None:
    ends = torch.rand(2, 8, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    mixed = 0.3 * ends[0] + 0.6 * ends[1]
    assert crossfade_residual(torch.stack([ends[0], mixed, ends[1]])) == pytest.approx(0, abs=1e-7)
    beyond = (2 * ends[0] - 0.5 * ends[1]).clamp_min(0)
    assert crossfade_residual(torch.stack([ends[0], beyond, ends[1]])) > 0.1


def test_a_mix_holds_two_pitches_and_a_tone_one(paths: list[dict[str, Tensor]]) -> None:
    assert max(second_pitch_salience(path["truth"][4], RATE) for path in paths) <= 0.1
    assert mean([second_pitch_salience(path["mix"][4], RATE) for path in paths]) >= 0.4
    assert mean([second_pitch_salience(path["db"][4], RATE) for path in paths]) >= 0.2


def test_a_switch_is_uneven_and_even_steps_are_even(paths: list[dict[str, Tensor]]) -> None:
    for path in paths:
        assert step_variation(log_mel_db(path["switch"], RATE)) == pytest.approx(7**0.5, abs=1e-4)  # one step of eight
        assert step_variation(log_mel_db(path["truth"], RATE)) < 0.35


def test_descriptors_of_the_truth_stay_near_the_line_and_those_of_a_third_sound_do_not() -> None:
    first, last = next(iter(tone_pairs(1, same_pitch=True)))
    truth = magnitudes(first, last)["truth"]
    third = torch.cat([truth[:4], truth[4:5].flip(1), truth[5:]])
    assert descriptor_nonlinearity(truth, RATE) < 0.5
    assert descriptor_nonlinearity(third, RATE) > 2 * descriptor_nonlinearity(truth, RATE)


def test_endpoint_error_is_of_the_ends_alone(paths: list[dict[str, Tensor]]) -> None:
    for path in paths:
        truth = TruePath(path["truth"], RATE)
        assert truth.endpoint_error_db(log_mel_db(path["mix"], RATE)) == 0
        assert truth.endpoint_error_db(log_mel_db(path["mix"].flip(0), RATE)) > 3


def test_tones_lie_between_their_ends() -> None:
    first, last = next(iter(tone_pairs(1, same_pitch=False)))
    assert first.between(last, 0.0) == first and first.between(last, 1.0) == last
    assert first.between(last, 0.5).pitch_octaves == pytest.approx((first.pitch_octaves + last.pitch_octaves) / 2)
    assert 2.5 / 12 <= abs(first.pitch_octaves - last.pitch_octaves) <= 10.5 / 12
    same = next(iter(tone_pairs(1, same_pitch=True)))
    assert same[0].pitch_octaves == same[1].pitch_octaves and same[0] != same[1]


def test_a_tone_has_its_pitch_and_length() -> None:
    sound = Tone(8.0, -6.0, 10.0, -3.0, -6.0, 0.0).waveform(RATE)
    assert sound.shape == (1, round(SECONDS * RATE))
    spectrum = torch.fft.rfft(sound[0]).abs()
    partials = spectrum[[256 * number for number in range(1, 6)]]  # 2 ** 8 Hz, in bins of 1 Hz
    assert (partials > 20 * spectrum[[256 * number + 128 for number in range(1, 6)]]).all()


def test_two_rhythms_at_once_have_less_contrast_than_one() -> None:
    found: dict[str, list[float]] = {}
    for pair in phrase_pairs(PAIRS):
        for name, path in magnitudes(*pair).items():
            found.setdefault(name, []).append(onset_contrast(log_mel_db(path, RATE)))
    assert mean(found["truth"]) == pytest.approx(1, abs=0.1)
    assert mean(found["db"]) < 0.7


def test_chords_have_as_many_notes_as_their_counterparts_each_not_far_from_its_own() -> None:
    pairs = list(chord_pairs(PAIRS))
    assert [len(first.notes) for first, _ in pairs][:2] == [2, 3]
    for first, last in pairs:
        assert first.between(last, 0.0) == first and first.between(last, 1.0) == last
        pitches = [[12 * note.pitch_octaves for note in one.notes] for one in (first, last)]
        assert all(abs(high - low) <= 5 for low, high in zip(*pitches, strict=True))
        assert all(high - low > 2.5 for one in pitches for low, high in pairwise(one))
        alone = [note.waveform(RATE) for note in first.notes]
        assert torch.allclose(first.waveform(RATE), torch.stack(alone).sum(0), atol=1e-5)


def test_of_the_phrases_that_are_evaluated_one_pair_asks_for_more_than_three_times_the_pace() -> None:
    too_fast = 0
    for first, last in phrase_pairs(PHRASE_PAIRS):
        paces = [
            (later - other) / (late - early)
            for (early, late), (other, later) in zip(
                pairwise(first.onsets_seconds), pairwise(last.onsets_seconds), strict=True
            )
        ]
        too_fast += max(*paces, *(1 / pace for pace in paces)) > 3
    assert too_fast == 1


def test_phrases_have_their_counterparts_notes_at_the_times_between() -> None:
    for first, last in phrase_pairs(PAIRS):
        assert first.between(last, 0.0) == first and first.between(last, 1.0) == last
        middle = first.between(last, 0.5)
        for one, other, between in zip(first.onsets_seconds, last.onsets_seconds, middle.onsets_seconds, strict=True):
            assert between == pytest.approx((one + other) / 2) and abs(one - other) <= 0.3
        assert all(late - early > 0.14 for one in (first, last) for early, late in pairwise(one.onsets_seconds))
        sound = first.waveform(RATE)
        assert sound.shape == (1, round(PHRASE_SECONDS * RATE)) and sound.abs().max() > 0
        assert not sound[:, : int(first.onsets_seconds[0] * RATE)].any()


def test_transport_moves_a_partial_to_where_it_is_in_the_other_sound() -> None:
    """And its mass changes evenly; each frame by itself."""
    a, b = torch.zeros(40, 2), torch.zeros(40, 2)
    a[10], b[20] = torch.tensor([1.0, 3.0]), torch.tensor([3.0, 3.0])
    path = transport(a, b, [0.0, 0.5, 1.0])
    torch.testing.assert_close(path[0], a)
    torch.testing.assert_close(path[2], b)
    between = torch.zeros(40, 2)
    between[15] = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(path[1], between)
