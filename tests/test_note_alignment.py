from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import pytest
import torch

import audiovae
from audiovae import interpolation, note_alignment, note_match
from audiovae.alignment import LARGEST_RATIO, nearest_samples
from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.config import SpectrogramConfig
from audiovae.curve import Curve
from audiovae.errors import InputError
from audiovae.evaluation.log_mel import log_mel_db, stft_magnitude
from audiovae.evaluation.morphing import TruePath, onset_contrast, second_pitch_salience
from audiovae.evaluation.tones import Phrase, Tone, chord_pairs
from audiovae.interpolation import Morph, blend, interpolate, interpolate_curve
from audiovae.interval import best_intervals, matches, partials
from audiovae.lag import onset_strength
from audiovae.latents import Latents
from audiovae.mixing import PathShape
from audiovae.note_alignment import NoteAlignment
from audiovae.note_match import NoteMatch, decoded_around, match_notes
from audiovae.retiming import read
from audiovae.voices import Voices, move_voices
from tests.tiny_codec import save_tiny

RATE = 44_100
EXAMPLES = Path(__file__).parents[1] / "data" / "examples"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return audiovae.load(device="cpu")


def tone(semitones: float, *, slope_db: float = -6.0) -> Audio:
    """So far above A3."""
    octaves = float(torch.tensor(220.0).log2()) + semitones / 12
    made = Tone(octaves, slope_db, formant_octaves=10.0, even_db=0.0, attack_octaves=-6.0, decay_octaves=1.0)
    return Audio(0.1 * made.waveform(RATE), RATE, source=f"{semitones:g}")


def interval(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of spectrograms at the default settings, by frame."""
    return best_intervals(*matches(*(partials(one, SpectrogramConfig()) for one in (a, b))))


def semitones_above(codec: Codec, latents: Latents, reference: Latents) -> float:
    """Median interval of what is decoded of latents."""
    low, high = (codec.spectrogram_of(one).mean(0) for one in (reference, latents))
    frames = min(low.shape[1], high.shape[1])
    found = interval(low[:, :frames], high[:, :frames])
    return float(found[5:60].median())


def test_between_two_tones_lies_one_tone_half_way(codec: Codec) -> None:
    low, high = codec.encode(tone(0)), codec.encode(tone(7, slope_db=-10.0))
    middle, mixed = (interpolate(low, high, align=align, codec=codec) for align in ("pitch", "none"))
    assert semitones_above(codec, middle, low) == pytest.approx(3.5, abs=0.2)
    glided, crossfaded = (
        second_pitch_salience(codec.spectrogram.magnitude(codec.spectrogram_of(one))[0], RATE)
        for one in (middle, mixed)
    )
    assert glided < 0.1 and crossfaded > 2 * glided


def test_between_two_chords_lies_one_chord(codec: Codec) -> None:
    weights = [step / 4 for step in range(5)]
    errors: dict[str, list[float]] = {"both": [], "none": []}
    for first, last in chord_pairs(4):
        sounds = [0.1 * first.between(last, weight).waveform(RATE) for weight in weights]
        truth = torch.cat([stft_magnitude(one) for one in sounds])
        a, b = (codec.encode(Audio(sounds[place], RATE, source="chord")) for place in (0, -1))
        for align in ("both", "none"):
            morph = Morph([a, b], align=align, codec=codec)
            steps = [morph.at([1 - weight, weight]) for weight in weights]
            made = torch.cat([codec.spectrogram.magnitude(codec.spectrogram_of(one)) for one in steps])
            errors[align].append(TruePath(truth, RATE).relative_error(log_mel_db(made[..., : truth.shape[-1]], RATE)))
    assert mean(errors["both"]) < 0.7 * mean(errors["none"]), errors


EARLY, LATE = (0.3, 0.8, 1.4, 2.1), (0.45, 0.7, 1.55, 2.25)
"""Seconds at which the notes of two phrases begin."""


def phrase(onsets_seconds: tuple[float, ...], *, semitones: float = 0.0) -> Phrase:
    """Four plucked notes of different pitch."""
    pitches = [float(torch.tensor(220.0).log2()) + (one + semitones) / 12 for one in (0, 4, 7, 2)]
    notes = (Tone(pitch, -6.0, 10.0, 0.0, attack_octaves=-7.0, decay_octaves=-2.0) for pitch in pitches)
    return Phrase(tuple(notes), onsets_seconds)


def sound(made: Phrase) -> Audio:
    waveform = made.waveform(RATE)
    return Audio(0.1 * waveform / waveform.square().mean().sqrt(), RATE, source="phrase")


def onsets_seconds(codec: Codec, latents: Latents, *, least: float = 0.5) -> list[float]:
    strength = onset_strength([codec.spectrogram_of(latents).mean(0)])
    frame_seconds = codec.config.spectrogram.hop_length / RATE
    return [frame * frame_seconds for frame in strength.gt(least).nonzero()[:, 0].tolist()]


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.75])
def test_between_two_rhythms_lies_one_rhythm(codec: Codec, weight: float) -> None:
    first, last = phrase(EARLY), phrase(LATE, semitones=3)
    a, b = codec.encode(sound(first)), codec.encode(sound(last))
    found = onsets_seconds(codec, interpolate(a, b, weight=weight, codec=codec))
    assert found == pytest.approx(first.between(last, weight).onsets_seconds, abs=0.03)
    assert len(onsets_seconds(codec, interpolate(a, b, weight=weight, align="pitch", codec=codec))) > len(EARLY)


def test_between_rhythms_of_different_lengths_lies_one_rhythm(codec: Codec) -> None:
    slow, quick = sound(phrase(EARLY)), sound(phrase(tuple(0.4 * one for one in LATE), semitones=3))
    quick = Audio(quick.waveform[:, : round(0.4 * quick.samples)], RATE)
    morph = Morph([codec.encode(slow), codec.encode(quick)], codec=codec)
    for weight in (0.2, 0.5, 0.8):
        length = 1 - 0.6 * weight
        onsets = [length * one for one in phrase(EARLY).between(phrase(LATE), weight).onsets_seconds]
        assert onsets_seconds(codec, morph.at([1 - weight, weight])) == pytest.approx(onsets, abs=0.02)


def test_moved_notes_are_nearer_to_the_truth_than_two_rhythms_at_once(codec: Codec) -> None:
    first, last, weights = phrase(EARLY), phrase(LATE, semitones=3), [step / 4 for step in range(5)]
    sounds = [sound(first.between(last, weight)) for weight in weights]
    truth = torch.cat([stft_magnitude(one.waveform) for one in sounds])
    a, b = codec.encode(sounds[0]), codec.encode(sounds[-1])
    error, contrast = {}, {}
    for align in ("both", "pitch"):
        steps = [interpolate(a, b, weight=weight, align=align, codec=codec) for weight in weights]
        made = torch.cat([codec.spectrogram.magnitude(codec.spectrogram_of(one)) for one in steps])
        error[align] = TruePath(truth, RATE).relative_error(log_mel_db(made[..., : truth.shape[-1]], RATE))
        contrast[align] = onset_contrast(log_mel_db(made, RATE))
    assert error["both"] < 0.4 and error["pitch"] > 1.5 * error["both"]
    assert contrast["both"] > 0.8 > contrast["pitch"]


def test_what_is_matched_can_be_chosen(codec: Codec) -> None:
    a, b = codec.encode(sound(phrase(EARLY))), codec.encode(sound(phrase(LATE, semitones=3)))
    means = torch.stack([a.mean, b.mean])
    both, pitch, time = (match_notes(codec, means, seconds=1.0, by=by) for by in ("both", "pitch", "time"))
    assert torch.equal(both.times, time.times) and both.above_semitones.any()
    assert torch.equal(pitch.times[0], pitch.times[1]) and not time.above_semitones.any()
    moved = interpolate(a, b, align="time", codec=codec)
    assert onsets_seconds(codec, moved) == pytest.approx(
        phrase(EARLY).between(phrase(LATE), 0.5).onsets_seconds, abs=0.03
    )


def test_a_curve_moves_notes_as_it_goes(codec: Codec) -> None:
    first, last = phrase(EARLY), phrase(LATE)
    a, b = codec.encode(sound(first)), codec.encode(sound(last))
    found = onsets_seconds(codec, interpolate_curve(a, b, Curve.parse("0:0,0.3:0,0.42:1,1:1"), codec=codec))
    # The weight has turned between the second and the third note.
    assert found == pytest.approx([*EARLY[:2], *LATE[2:]], abs=0.05)


def test_three_rhythms_meet_at_their_mean_time(codec: Codec) -> None:
    middle = tuple(one + 0.05 for one in EARLY)
    phrases = [codec.encode(sound(phrase(onsets))) for onsets in (EARLY, LATE, middle)]
    wanted = [sum(times) / 3 for times in zip(EARLY, LATE, middle, strict=True)]
    for order in ([0, 1, 2], [2, 0, 1]):
        made = blend([phrases[place] for place in order], [1, 1, 1], codec=codec)
        assert onsets_seconds(codec, made) == pytest.approx(wanted, abs=0.03)


def test_pitch_follows_the_weight_and_beyond(codec: Codec) -> None:
    low, high = codec.encode(tone(0)), codec.encode(tone(4))
    for weight in (-0.5, 0.25, 0.75, 1.5):
        made = interpolate(low, high, weight=weight, codec=codec)
        assert semitones_above(codec, made, low) == pytest.approx(4 * weight, abs=0.25)


def test_the_ends_are_the_recordings_themselves(codec: Codec) -> None:
    a, b = (codec.encode(EXAMPLES / name) for name in ("flute_dvorak.flac", "cello_beethoven.flac"))
    assert torch.equal(interpolate(a, b, weight=0, codec=codec).mean, a.mean)
    assert torch.equal(interpolate(a, b, weight=1, codec=codec).mean, b.mean)
    near = interpolate(a, b, weight=1e-4, codec=codec).mean
    assert (near - a.mean).norm() < 0.01 * a.mean.norm()  # no step at the end of the path


def test_a_curve_glides_in_time(codec: Codec) -> None:
    low, high = codec.encode(tone(0)), codec.encode(tone(6))
    still = interpolate_curve(low, high, Curve.parse("0:0.5"), codec=codec)
    assert torch.equal(still.mean, interpolate(low, high, codec=codec).mean)
    moving = interpolate_curve(low, high, Curve.parse("0:0,1:1"), codec=codec)
    spectrograms = [codec.spectrogram_of(one).mean(0) for one in (low, moving)]
    found = interval(*spectrograms)
    assert found[:8].mean() < 1 and found[70:80].mean() > 4


def test_three_tones_meet_at_their_mean_pitch(codec: Codec) -> None:
    tones = [codec.encode(tone(semitones)) for semitones in (0, 3, 9)]
    for order in ([0, 1, 2], [2, 0, 1]):
        made = blend([tones[place] for place in order], [1, 1, 1], codec=codec)
        assert semitones_above(codec, made, tones[0]) == pytest.approx(4, abs=0.3)


def test_equal_sounds_stay_as_they_are(codec: Codec) -> None:
    one = codec.encode(tone(0))
    assert torch.equal(interpolate(one, one, weight=0.3, codec=codec).mean, one.mean)


def test_both_channels_move_together(codec: Codec) -> None:
    left, right = tone(0).waveform, tone(4).waveform
    chord = codec.encode(Audio(torch.cat([left, right]), RATE))
    higher = codec.encode(Audio(torch.cat([tone(5).waveform, tone(9).waveform]), RATE))
    found = match_notes(codec, torch.stack([chord.mean, higher.mean]), seconds=1.0).above_semitones
    assert found.shape == (2, codec.config.model.time_stride * chord.latent_frames)
    assert (found[1, 5:60] - 5).abs().median() < 0.2


def test_pieces_of_a_long_recording_make_the_whole(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    means = torch.stack([codec.encode(EXAMPLES / name).mean for name in ("piano_bach.flac", "guitar.flac")])
    weights = torch.stack([torch.linspace(0, 1, means.shape[-1]), torch.linspace(1, 0, means.shape[-1])])
    aligned = NoteAlignment(codec, means, match_notes(codec, means, seconds=1.0))
    whole = aligned.at(weights)
    assert torch.equal(aligned.at(weights), whole)  # what is kept of the first time makes no difference
    for module in (note_alignment, note_match):
        monkeypatch.setattr(module, "CHUNK_LATENT_FRAMES", 5)
    in_pieces = NoteAlignment(codec, means, match_notes(codec, means, seconds=1.0))
    assert torch.allclose(in_pieces.at(weights), whole, atol=1e-3)  # partials are compared in half precision


def test_pieces_of_recordings_of_different_lengths_make_the_whole(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Audio(Audio.load(EXAMPLES / "guitar.flac").waveform[:, : round(1.3 * RATE)], RATE)
    ends, weights = [codec.encode(EXAMPLES / "piano_bach.flac"), codec.encode(short)], (0.3, 0.97)
    whole = [interpolate(*ends, weight=weight, codec=codec).mean for weight in weights]
    for module in (note_alignment, note_match):
        monkeypatch.setattr(module, "CHUNK_LATENT_FRAMES", 6)
    for weight, one in zip(weights, whole, strict=True):
        assert torch.allclose(interpolate(*ends, weight=weight, codec=codec).mean, one, atol=1e-3)


def test_what_is_played_faster_is_not_decoded_in_larger_pieces(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory depends neither on a recording's length nor on how far it is from that of the result."""
    short = codec.encode(EXAMPLES / "guitar.flac")
    frames = 8 * short.latent_frames
    samples = nearest_samples(8 * short.samples, frames, RATE, codec.config)
    long = replace(short, mean=short.mean.repeat(1, 1, 8), logvar=None, samples=samples)
    largest: dict[str, int] = {}

    def watch(module: ModuleType) -> None:
        def watched(*arguments: Any) -> tuple[int, torch.Tensor]:
            first, spectrogram = decoded_around(*arguments)
            pieces = largest.get(module.__name__, 0), spectrogram.shape[-1] // codec.config.model.time_stride
            largest[module.__name__] = max(pieces)
            return first, spectrogram

        monkeypatch.setattr(module, "CHUNK_LATENT_FRAMES", 32)
        monkeypatch.setattr(module, "decoded_around", watched)

    for module in (note_alignment, note_match):
        watch(module)
    interpolate(short, long, weight=1 / 7, align="pitch", codec=codec)
    context = 2 * codec.checkpoint.model.context_latent_frames
    assert largest[note_match.__name__] <= 32 + 2 * context + 8
    assert largest[note_alignment.__name__] <= 32 + 2 * context * (1 + LARGEST_RATIO) + 8


def test_without_weight_or_with_all_of_it_a_recording_is_left_alone(codec: Codec) -> None:
    phrases = [sound(phrase(EARLY)), sound(phrase(LATE, semitones=5)), sound(phrase(EARLY, semitones=2))]
    means = torch.stack([codec.encode(one).mean for one in phrases])
    aligned = NoteAlignment(codec, means, match_notes(codec, means, seconds=1.0))
    for shares, moves in (([0.5, 0.0, 0.5], [True, False, True]), ([0.0, 1.0, 0.0], [False, False, False])):
        moved = aligned.at(torch.tensor(shares)[:, None].expand(-1, means.shape[-1]))
        assert [not torch.equal(*pair) for pair in zip(moved, means, strict=True)] == moves


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_curve_that_stays_at_an_end_is_the_recording(codec: Codec, weight: float) -> None:
    early, late = sound(phrase(EARLY)), sound(phrase(LATE, semitones=5))
    shorter = codec.encode(Audio(late.waveform[:, : round(0.7 * late.samples)], RATE))
    ends = codec.encode(early), shorter
    curve = interpolate_curve(*ends, Curve((0.0,), (weight,)), codec=codec)
    assert torch.equal(curve.mean, ends[int(weight)].mean)


def test_a_note_takes_its_interval_with_it_in_time(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    means = torch.stack([codec.encode(tone(semitones)).mean for semitones in (0, 5)])
    frames = codec.config.model.time_stride * means.shape[-1]
    shift = 8 * torch.sin(torch.linspace(0, torch.pi, frames, dtype=torch.float64))
    times = torch.arange(frames) + torch.stack([-shift, shift])
    above = torch.stack([torch.zeros(frames), torch.where(torch.arange(frames) < 40, 5.0, 0.0)])
    seen: list[torch.Tensor] = []

    def seeing(spectrogram: Any, shares: Any, semitones: torch.Tensor, front_end: Any) -> torch.Tensor:
        seen.append(semitones[0])
        return move_voices(spectrogram, shares, semitones, front_end)

    monkeypatch.setattr(note_alignment, "move_voices", seeing)
    NoteAlignment(codec, means, NoteMatch(times, above, Voices.none(2, frames), seconds=1.0)).at(
        torch.tensor([[0.1], [0.9]]).expand(-1, means.shape[-1])
    )
    wanted = 0.1 * times[0, 40] + 0.9 * times[1, 40]
    assert int(seen[0].gt(0).sum()) == pytest.approx(float(wanted), abs=1) != pytest.approx(40, abs=2)


def test_a_match_holds_when_recordings_are_brought_to_another_length() -> None:
    frames = torch.arange(100, dtype=torch.float64)
    shift = 6 * torch.sin(frames / 99 * torch.pi)
    above = torch.stack([torch.zeros(100), torch.linspace(0, 5, 100)])
    match = NoteMatch(frames + torch.stack([-shift, shift]), above, Voices.none(2, 100), seconds=2.0)
    longer = match.stretched(150, 3.0)
    assert longer.times[1, 75] - 75 == pytest.approx(1.5 * float(shift[50]), abs=0.1)
    assert longer.above_semitones[1, 75] == pytest.approx(2.5, abs=0.05)
    assert torch.equal(match.stretched(100, 2.0).times, match.times)


def test_what_has_no_weight_but_sets_the_length_changes_nothing_in_the_match(codec: Codec) -> None:
    a, b = codec.encode(sound(phrase(EARLY))), codec.encode(sound(phrase(LATE, semitones=3)))
    long = codec.encode(Audio(sound(phrase(EARLY)).waveform.repeat(1, 3), RATE, source="long"))
    made = onsets_seconds(codec, blend([a, b, long], [0.5, 0.5, 0], fit="loop", codec=codec))
    once = phrase(EARLY).between(phrase(LATE), 0.5).onsets_seconds
    assert made[: len(once)] == pytest.approx(once, abs=0.04)


def test_the_cut_end_of_a_sustained_sound_is_no_onset(codec: Codec) -> None:
    for samples in (2 * RATE, 2 * RATE + 700, 1.5 * RATE, 3 * RATE):
        cello = Audio.load(EXAMPLES / "cello_beethoven.flac").waveform[:, : int(samples)]
        found = onsets_seconds(codec, codec.encode(Audio(cello, RATE)), least=0.1)
        assert not [one for one in found if one > samples / RATE - 0.1]


def test_a_path_between_lengths_has_no_jumps(codec: Codec) -> None:
    short = Audio(Audio.load(EXAMPLES / "guitar.flac").waveform[:, : int(4.2 * RATE)], RATE, source="short")
    a, b = codec.encode(EXAMPLES / "piano_bach.flac"), codec.encode(short)
    weights = [[0.5 - step, 0.5 + step] for step in (-0.06, -0.02, 0.02, 0.06)]
    steps = [codec.spectrogram_of(one).mean(0) for one in map(Morph([a, b], codec=codec).at, weights)]
    frames = torch.arange(400) / 400
    on_one_axis = torch.stack([read(one, frames * one.shape[1]) for one in steps])
    changes = (on_one_axis.diff(dim=0)).flatten(1).norm(dim=1) / on_one_axis[:-1].flatten(1).norm(dim=1)
    assert changes.max() < 0.3


def hits(seconds: float) -> Audio:
    """Eight bursts of noise, evenly over so many seconds."""
    samples, burst = round(seconds * RATE), round(0.06 * RATE)
    waveform, noise = torch.zeros(1, samples), torch.randn(burst, generator=torch.Generator().manual_seed(0))
    for place in range(8):
        start = round((place + 0.5) / 8 * samples)
        waveform[0, start : start + burst] = 0.2 * noise * torch.linspace(1, 0, burst)
    return Audio(waveform, RATE, source="hits")


def hit_levels_db(codec: Codec, latents: Latents) -> torch.Tensor:
    """The highest level of each eighth."""
    power = codec.spectrogram.denormalise(codec.spectrogram_of(latents)).square().sum((0, 1))
    eighths = power[: len(power) // 8 * 8].unflatten(0, (8, -1))
    return 10 * eighths.amax(1).log10()


@pytest.mark.parametrize("align", ["both", "pitch", "none"])
def test_hits_between_lengths_are_as_loud_as_at_the_ends(codec: Codec, align: Any) -> None:
    a, b = codec.encode(hits(2.4)), codec.encode(hits(2.85))
    lowest = min(hit_levels_db(codec, one).min() for one in (a, b))
    morph = Morph([a, b], align=align, codec=codec)
    for weight in (0.2, 0.5, 0.8):
        assert hit_levels_db(codec, morph.at([1 - weight, weight])).min() > lowest - 1.5


@pytest.mark.parametrize("align", ["pitch", "time"])
def test_the_way_back_is_the_way(codec: Codec, align: Any) -> None:
    a, b = codec.encode(EXAMPLES / "folk_founders.flac"), codec.encode(EXAMPLES / "music_box.flac")
    there = interpolate(a, b, weight=0.3, align=align, codec=codec).mean
    back = interpolate(b, a, weight=0.7, align=align, codec=codec).mean
    assert (there - back).norm() < 1e-3 * there.norm()


def test_latents_of_the_first_channels_only_are_aligned_too(codec: Codec) -> None:
    a, b = codec.encode(tone(0)), codec.encode(tone(7))
    few = [replace(one, mean=one.mean[:, :64], logvar=None) for one in (a, b)]
    made = interpolate(*few, codec=codec)
    assert made.mean.shape == few[0].mean.shape
    assert semitones_above(codec, made, few[0]) == pytest.approx(3.5, abs=0.3)


@pytest.mark.parametrize("vibrato_semitones", [None, 0.5, 1.0])
def test_noise_and_vibrato_have_no_onsets(codec: Codec, vibrato_semitones: float | None) -> None:
    seconds = torch.arange(3 * RATE) / RATE
    if vibrato_semitones is None:
        waveform = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    else:
        pitch_hz = 220 * 2 ** (vibrato_semitones / 12 * torch.sin(2 * torch.pi * 5.5 * seconds))
        phase = 2 * torch.pi * (pitch_hz.double() / RATE).cumsum(0)
        waveform = sum(((number * phase).sin() / number for number in range(1, 20)), torch.zeros(())).float()
    assert onsets_seconds(codec, codec.encode(Audio(0.1 * waveform[None], RATE)), least=0.2) == []


def test_sounds_of_a_morph_are_the_blends_one_by_one(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [codec.encode(tone(semitones)) for semitones in (0, 5, 9)]
    weights = [[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0.5, 0.5], [1, 1, 1]]
    paths: list[PathShape] = ["normalised", "linear"]
    one_by_one = [blend(clips, one, path=path, codec=codec) for one in weights for path in paths]
    matched: list[int] = []

    def counted(codec: Codec, means: torch.Tensor, **options: Any) -> NoteMatch:
        matched.append(len(means))
        return match_notes(codec, means, **options)

    monkeypatch.setattr(interpolation, "match_notes", counted)
    morph = Morph(clips, codec=codec)
    for made, alone in zip((morph.at(one, path=path) for one in weights for path in paths), one_by_one, strict=True):
        assert torch.equal(made.mean, alone.mean) and made.source == alone.source
    assert matched == [2, 2, 3]


def test_the_model_must_be_the_one_that_made_the_latents(codec: Codec, tmp_path: Path) -> None:
    one = codec.encode(tone(0))
    other = audiovae.load(save_tiny(tmp_path / "tiny.safetensors"), device="cpu")
    with pytest.raises(InputError, match=r"encoded by checkpoint \w+, but .* is \w+ \(.*tiny"):
        interpolate(one, one, codec=other)
    strange = other.encode(tone(0))
    with pytest.raises(InputError, match="bundled one"):
        interpolate(strange, strange)
