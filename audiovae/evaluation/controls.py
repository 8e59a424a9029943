"""What in-betweens of models are compared with: crossfades, detours, and what aligning notes does alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.codec import Codec
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.morphing import SoundPath, by_way_of, db_average, hard_switch, transport
from audiovae.evaluation.tones import THIRD_TONE
from audiovae.lag import best_lags, onset_strength
from audiovae.level import level_db
from audiovae.note_match import PitchComparison
from audiovae.retiming import common_places, common_times, read
from audiovae.spectrogram import band_centres_hz
from audiovae.voices import Voices, move_voices, voice_shares

CONTROLS = (
    "waveform mix",
    "dB average",
    "hard switch",
    "transport, frame by frame",
    "by way of a third sound",
    "aligned bands, no model",
    "aligned bands, one interval",
)
"""Their names in the tables."""


def controls(
    a: Float[Tensor, "1 samples"], b: Float[Tensor, "1 samples"], weights: Sequence[float], codec: Codec
) -> dict[str, SoundPath]:
    """Paths between two sounds, of the level that the model works at, that no model has a part in."""
    ends = magnitudes_of(a, codec)[0], magnitudes_of(b, codec)[0]
    third = THIRD_TONE.waveform(codec.config.spectrogram.sample_rate, samples=a.shape[1])
    third = magnitudes_of(levelled(third, codec), codec)[0]
    mixes = torch.cat([torch.lerp(a, b, weight) for weight in weights])
    return {
        "waveform mix": magnitudes_of(mixes, codec),
        "dB average": torch.stack([db_average(*ends, weight) for weight in weights]),
        "hard switch": torch.stack([hard_switch(*ends, weight) for weight in weights]),
        "transport, frame by frame": transport(*ends, weights),
        "by way of a third sound": torch.stack([by_way_of(third, *ends, weight) for weight in weights]),
    } | _aligned_bands(a, b, weights, codec)


def _aligned_bands(
    a: Float[Tensor, "1 samples"], b: Float[Tensor, "1 samples"], weights: Sequence[float], codec: Codec
) -> dict[str, SoundPath]:
    """What aligning notes does alone: true bands, brought to the pitch and time between, averaged, inverted.

    And what is left of it if all of a spectrum moves by one interval.
    """
    ends = [codec.spectrogram(sound[None].to(codec.device))[0, 0].cpu() for sound in (a, b)]
    times = common_times(best_lags(*(onset_strength([end]) for end in ends))[None])
    compared = PitchComparison(codec.config.spectrogram)
    compared.add(*(read(end, its_times) for end, its_times in zip(ends, times, strict=True)))
    interval = compared.above_semitones()
    voices = compared.voices(interval)
    in_one = _bands_between(ends, times, interval, Voices.none(2, len(interval)), weights, codec)
    own = _bands_between(ends, times, interval, voices, weights, codec) if len(voices.strength) else in_one
    return {"aligned bands, no model": own, "aligned bands, one interval": in_one}


def _bands_between(
    ends: Sequence[Float[Tensor, "n_bands frames"]],
    times: Float[Tensor, "2 frames"],
    interval: Float[Tensor, " frames"],
    voices: Voices,
    weights: Sequence[float],
    codec: Codec,
) -> SoundPath:
    """Magnitudes of the path between spectrograms whose notes belong together so."""
    between = []
    centres_hz = band_centres_hz(codec.config.spectrogram)
    for weight in weights:
        places = common_places(times, torch.tensor([[1 - weight], [weight]]).expand_as(times))
        there = voices.at(places)
        apart = torch.cat([read(interval, places)[None], there.pitches[1] - there.pitches[0]])
        moved = []
        for end, its_times, pitches, part in zip(ends, times, there.pitches, (weight, weight - 1), strict=True):
            shares = voice_shares(pitches, there.strength, centres_hz)
            moved.append(move_voices(read(end, read(its_times, places)), shares, part * apart, codec.spectrogram))
        between.append(torch.lerp(moved[0], moved[1], weight))
    return codec.spectrogram.magnitude(torch.stack(between).to(codec.device)).cpu()


def magnitudes_of(waveforms: Float[Tensor, "steps samples"], codec: Codec) -> SoundPath:
    """By the model's STFT."""
    config = codec.config.spectrogram
    return stft_magnitude(waveforms, n_fft=config.n_fft, hop_length=config.hop_length)


def levelled(waveform: Float[Tensor, "1 samples"], codec: Codec) -> Float[Tensor, "1 samples"]:
    """At the level that the model works at, as the codec sees every sound."""
    config = codec.config.spectrogram
    return waveform * 10 ** ((config.level_db - level_db(waveform, config.sample_rate)) / 20)
