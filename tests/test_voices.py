"""Notes of chords find their counterparts, each by an interval of its own."""

from statistics import mean

import pytest
import torch
from torch.nn import functional

from audiovae.config import SpectrogramConfig
from audiovae.evaluation.tones import Chord, Tone, chord_pairs, tone_pairs
from audiovae.interval import LOWEST_HZ, intervals
from audiovae.note_match import PitchComparison
from audiovae.spectrogram import Spectrogram, band_centres_hz
from audiovae.voice_match import PITCHES, _best_of_intervals, _halves, _harmonic_sums
from audiovae.voices import LEAST_STRENGTH, Voices, move_voices, voice_shares
from tests.conftest import noise

CONFIG = SpectrogramConfig()
RATE = CONFIG.sample_rate
SPECTROGRAM = Spectrogram(CONFIG)
CENTRES_HZ = band_centres_hz(CONFIG)


def spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    return SPECTROGRAM(0.1 * waveform[None] / waveform.square().mean().sqrt().clamp_min(1e-6))[0, 0]


def chord(*semitones: float) -> Chord:
    """So far above A3, all of one instrument."""
    pitches = (float(torch.tensor(220.0).log2()) + one / 12 for one in semitones)
    return Chord(tuple(Tone(pitch, -6.0, 10.0, -3.0, attack_octaves=-6.0, decay_octaves=1.0) for pitch in pitches))


def compared(a: torch.Tensor, b: torch.Tensor) -> PitchComparison:
    comparison = PitchComparison(CONFIG)
    comparison.add(spectrogram(a), spectrogram(b))
    return comparison


def voices_of(a: torch.Tensor, b: torch.Tensor) -> Voices:
    comparison = compared(a, b)
    return comparison.voices(comparison.above_semitones())


def semitones(hz: float) -> float:
    """Above the lowest pitch."""
    return float(12 * torch.tensor(hz / LOWEST_HZ).log2())


def median_pitches(voices: Voices) -> list[tuple[float, float]]:
    """Of each voice in both sounds, the lowest first, where the sounds are in full swing."""
    pitches = voices.pitches[..., 10:60].median(-1).values
    return sorted((float(low), float(high)) for low, high in pitches.mT)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((0, 7), (-2, 8)),
        ((-5, 9), (-1, 5)),
        ((0, 4, 9), (-1, 5, 7.5)),
        ((-8, 4, 14), (-4, 2, 11)),
        ((-9, 0, 9), (-6, -3, 13)),
    ],
    ids=["apart", "towards each other", "three notes", "a low note under others", "the middle one the other way"],
)
def test_each_note_of_a_chord_finds_its_counterpart(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    found = median_pitches(voices_of(chord(*low).waveform(RATE), chord(*high).waveform(RATE)))
    above = semitones(220.0)
    for one, other in zip(low, high, strict=True):
        nearest = min(found, key=lambda pair: abs(pair[0] - above - one))
        assert nearest == pytest.approx((above + one, above + other), abs=0.3)
    assert len(low) <= len(found) <= len(low) + 1


@pytest.mark.parametrize("frames", [1, 65])
def test_the_compiled_loop_finds_the_pitch_whose_harmonics_coincide_best(frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 319, frames, generator=generator)
    best = _best_of_intervals(a, b)
    assert best.shape == (frames, len(intervals()))
    for place, apart in ((0, -48), (48, 0), (55, 7), (96, 48)):
        in_a, in_b = _halves(apart)
        padded = (functional.pad(one, (0, 0, 24, 24)) for one in (a, b))
        product = torch.stack([one[24 + its :][:319] for one, its in zip(padded, (in_a, in_b), strict=True)]).prod(0)
        sums = _harmonic_sums(product)
        assert sums.shape == (PITCHES, frames)
        assert torch.allclose(best[:, place], sums.amax(0), rtol=1e-5)


def test_silence_and_noise_have_no_voices() -> None:
    nothing, tone = torch.zeros(1, RATE), chord(0).waveform(RATE)
    some, other = noise(samples=RATE), noise(samples=RATE, seed=1)
    for pair in ((nothing, nothing), (nothing, tone), (some, other)):
        assert len(voices_of(*pair).strength) == 0


@pytest.mark.parametrize("seconds", [1, 8])
def test_silence_after_a_chord_changes_nothing(seconds: int) -> None:
    pair = [chord(*notes).waveform(RATE) for notes in ((0, 4, 9), (-1, 5, 7.5))]
    alone = median_pitches(voices_of(*pair))
    padded = median_pitches(voices_of(*(functional.pad(one, (0, seconds * RATE)) for one in pair)))
    assert len(padded) == len(alone)
    for pair_of_pitches, wanted in zip(padded, alone, strict=True):
        assert pair_of_pitches == pytest.approx(wanted, abs=0.1)


def test_a_chord_has_its_voices_beside_longer_tones() -> None:
    pair = [
        torch.cat([chord(*notes).waveform(RATE), *[chord(notes[0]).waveform(RATE)] * 8], dim=1)
        for notes in ((0, 4, 9), (-1, 5, 7.5))
    ]
    voices = voices_of(*pair)
    a_second = RATE // CONFIG.hop_length
    assert (voices.strength[:, 20:60] > LEAST_STRENGTH).sum(0).float().mean() > 2
    assert not voices.strength[:, 2 * a_second :].any()


def test_what_one_interval_explains_has_no_voices() -> None:
    for first, last in tone_pairs(6, same_pitch=False):
        assert len(voices_of(first.waveform(RATE), last.waveform(RATE)).strength) == 0
    parallel = chord(0, 4, 9), chord(3, 7, 12)
    assert len(voices_of(*(one.waveform(RATE) for one in parallel)).strength) == 0


def test_there_and_back_are_the_same_voices() -> None:
    found = 0
    for first, last in chord_pairs(3):
        a, b = first.waveform(RATE), last.waveform(RATE)
        there, back = voices_of(a, b), voices_of(b, a)
        found += len(there.strength)
        assert torch.equal(there.pitches, back.pitches.flip(0))
        assert torch.allclose(there.strength, back.strength, atol=1e-5)
    assert found >= 4


def test_shares_of_every_band_sum_to_one_and_go_to_the_voice_whose_partial_it_is() -> None:
    pitches = torch.tensor([semitones(220.0), semitones(330.0)])[:, None].expand(-1, 3)
    shares = voice_shares(pitches, torch.ones(2, 3), CENTRES_HZ)
    assert shares.shape == (3, CONFIG.n_bands, 3)
    assert torch.allclose(shares.sum(0), torch.ones(CONFIG.n_bands, 3)) and (shares >= 0).all()
    for number, hz in ((1, 220.0), (2, 330.0), (1, 880.0), (2, 990.0)):
        tone = spectrogram(torch.sin(2 * torch.pi * hz * torch.arange(RATE) / RATE)[None])
        assert shares[number, tone[:, 40].argmax(), 0] > 0.8
    assert (shares[0, -1] == 1).all()  # far above all partials


def test_a_voice_that_is_silent_takes_nothing_from_the_rest() -> None:
    pitches = torch.full((1, 4), semitones(220.0))
    assert (voice_shares(pitches, torch.zeros(1, 4), CENTRES_HZ)[0] > 0.99).all()


def test_what_moves_by_nothing_stays_bit_for_bit() -> None:
    sound = spectrogram(chord(0, 7).waveform(RATE))
    frames = sound.shape[1]
    shares = voice_shares(torch.full((1, frames), semitones(220.0)), torch.ones(1, frames), CENTRES_HZ)
    half = torch.where(torch.arange(frames) < frames // 2, 0.0, 2.0)
    moved = move_voices(sound, shares, torch.stack([torch.zeros(frames), half]), SPECTROGRAM)
    assert torch.equal(moved[:, : frames // 2], sound[:, : frames // 2])
    assert not torch.allclose(moved[:, frames // 2 :], sound[:, frames // 2 :], atol=0.1)


def test_between_two_chords_lies_one_chord_whose_notes_are_half_way() -> None:
    errors, mixed = [], []
    for first, last in chord_pairs(6):
        truth, a, b = (spectrogram(one.waveform(RATE)) for one in (first.between(last, 0.5), first, last))
        comparison = compared(first.waveform(RATE), last.waveform(RATE))
        above = comparison.above_semitones()
        voices = comparison.voices(above)
        apart = torch.cat([above[None], voices.pitches[1] - voices.pitches[0]])
        moved = [
            move_voices(end, voice_shares(pitches, voices.strength, CENTRES_HZ), part * apart, SPECTROGRAM)
            for end, pitches, part in zip((a, b), voices.pitches, (0.5, -0.5), strict=True)
        ]
        errors.append(float((torch.lerp(*moved, 0.5) - truth).norm()))
        mixed.append(float((torch.lerp(a, b, 0.5) - truth).norm()))
    assert mean(errors) < 0.7 * mean(mixed)
