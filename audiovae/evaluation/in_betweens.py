"""Paths between sounds by models and by their controls, measured: tones whose truth is known, and the user's clips."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.evaluation.clips import spread_evenly
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.evaluation.morphing import (
    SoundPath,
    by_way_of,
    crossfade_residual,
    db_average,
    db_residual,
    descriptor_nonlinearity,
    endpoint_error_db,
    hard_switch,
    onset_contrast,
    second_pitch_salience,
    step_variation,
    transport,
    truth_relative_error,
)
from audiovae.evaluation.summary import Summary, summarise
from audiovae.evaluation.tones import THIRD_TONE, chord_pairs, phrase_pairs, tone_pairs
from audiovae.interpolation import Align, blends
from audiovae.lag import best_lags, onset_strength
from audiovae.latents import Latents
from audiovae.level import level_db
from audiovae.mixing import PathShape
from audiovae.note_match import PitchComparison
from audiovae.retiming import common_places, common_times, read
from audiovae.voices import Voices, move_voices, voice_shares

STEPS = 9
WEIGHTS = [step / (STEPS - 1) for step in range(STEPS)]
TONE_PAIRS = 10
"""Of each kind: of different pitch, and of the same."""
CHORD_PAIRS = 10
PHRASE_PAIRS = 6
CLIP_PAIRS = 24
"""Of neighbours in the list of clips, at most."""
TRANSPOSITIONS, TRANSPOSED_SECONDS = (5.0, -4.0, 7.0, -3.0, 2.5, -8.0), 4.0
"""Semitones between each clip and its transposition, and how much of it is taken; so many clips at most."""
TRUTH = "truth"
WAYS: dict[str, tuple[PathShape, Align]] = {
    "": ("normalised", "both"),
    "pitch only": ("normalised", "pitch"),
    "linear": ("linear", "both"),
    "linear, unaligned": ("linear", "none"),
}
"""A model's paths: as ``interpolate`` makes them; without matching onsets; on the straight line as it is; and without
matching anything."""
ONE_RHYTHM = {way: how for way, how in WAYS.items() if how[1] != "pitch"}
"""Those that differ where both ends have their onsets at the same times."""

Rows = dict[str, dict[str, Summary]]
"""By method, by measure."""


def tone_in_betweens(codecs: Mapping[str, Codec], *, same_pitch: bool, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of synthetic tones whose in-betweens are known."""
    rate, pairs = _rate(next(iter(codecs.values()))), tone_pairs(TONE_PAIRS, same_pitch=same_pitch)
    paths = ([first.between(last, weight).waveform(rate) for weight in WEIGHTS] for first, last in pairs)
    return _known_in_betweens(codecs, paths, advance, ONE_RHYTHM)


def chord_in_betweens(codecs: Mapping[str, Codec], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of chords of such tones, each of whose notes moves by an interval of its own."""
    rate, pairs = _rate(next(iter(codecs.values()))), chord_pairs(CHORD_PAIRS)
    paths = ([first.between(last, weight).waveform(rate) for weight in WEIGHTS] for first, last in pairs)
    return _of_several_pitches(_known_in_betweens(codecs, paths, advance, ONE_RHYTHM))


def phrase_in_betweens(codecs: Mapping[str, Codec], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of phrases of such tones, whose rhythms differ."""
    rate, pairs = _rate(next(iter(codecs.values()))), phrase_pairs(PHRASE_PAIRS)
    paths = ([first.between(last, weight).waveform(rate) for weight in WEIGHTS] for first, last in pairs)
    return _of_several_pitches(_known_in_betweens(codecs, paths, advance, WAYS))


def _of_several_pitches(rows: Rows) -> Rows:
    """Without the measure of a second pitch: where there are several, it doesn't mean that both ends are heard."""
    return {
        method: {name: found for name, found in row.items() if name != "second_pitch_salience"}
        for method, row in rows.items()
    }


def transposed_in_betweens(codecs: Mapping[str, Codec], clips: Sequence[Audio], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on the way from clips, as ``load_clip`` gives them, to the same clips transposed.

    A phase vocoder (librosa's) transposes them, and so makes the true in-betweens of real music.
    """
    from librosa.effects import pitch_shift

    rate = _rate(next(iter(codecs.values())))

    def path(clip: Audio, semitones: float) -> list[Float[Tensor, "1 samples"]]:
        waveform = clip.waveform[0, : round(TRANSPOSED_SECONDS * rate)].numpy()
        shifted = (pitch_shift(waveform, sr=rate, n_steps=weight * semitones) for weight in WEIGHTS)
        return [torch.from_numpy(one)[None] for one in shifted]

    paths = (path(*one) for one in zip(clips, TRANSPOSITIONS, strict=False))
    return _known_in_betweens(codecs, paths, advance, ONE_RHYTHM)


def _known_in_betweens(
    codecs: Mapping[str, Codec],
    paths: Iterable[list[Float[Tensor, "1 samples"]]],
    advance: Callable[[], None],
    ways: Mapping[str, tuple[PathShape, Align]],
) -> Rows:
    """Models and controls from the first to the last waveform of each true path."""
    found: dict[str, list[dict[str, float]]] = {}
    codec = next(iter(codecs.values()))
    for waveforms in paths:
        sounds = [_levelled(waveform, codec) for waveform in waveforms]
        truth = _magnitudes(torch.cat(sounds), codec)
        for name, path in _controls(sounds, truth, codec).items():
            found.setdefault(name, []).append(_against_truth(path, truth, codec))
        _add_models(found, codecs, sounds, truth, ways)
        advance()
    return _summaries(found)


def clip_in_betweens(
    codecs: Mapping[str, Codec], clips: Mapping[str, Sequence[Latents]], *, advance: Callable[[], None]
) -> Rows:
    """Models, on pairs of clips; of what lies between real sounds nobody knows the truth."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, codec in codecs.items():
        for first, last in neighbours(clips[name], most=CLIP_PAIRS):
            for way, (path, align) in ways_of(name).items():
                sounds, cycle = latent_path(codec, first, last, path=path, align=align)
                found.setdefault(way, []).append(_blind(sounds, codec) | {"cycle": cycle})
        advance()
    return _summaries(found)


def ways_of(name: str, ways: Mapping[str, tuple[PathShape, Align]] = WAYS) -> dict[str, tuple[PathShape, Align]]:
    """A model's paths by their names in the tables."""
    return {f"{name}, {way}" if way else name: how for way, how in ways.items()}


def _add_models(
    found: dict[str, list[dict[str, float]]],
    codecs: Mapping[str, Codec],
    sounds: list[Float[Tensor, "1 samples"]],
    truth: SoundPath,
    ways: Mapping[str, tuple[PathShape, Align]],
) -> None:
    for name, codec in codecs.items():
        first, last = (codec.encode(Audio(sounds[step], _rate(codec), source=f"sound {step}")) for step in (0, -1))
        for way, (path, align) in ways_of(name, ways).items():
            made, cycle = latent_path(codec, first, last, path=path, align=align)
            found.setdefault(way, []).append(_against_truth(made, truth, codec) | {"cycle": cycle})


def neighbours(latents: Sequence[Latents], *, most: int) -> list[tuple[Latents, Latents]]:
    """Each clip with the next one, the last with the first; at most so many pairs, spread evenly over the list."""
    if len(latents) < 2:
        return []
    pairs = list(zip(latents, [*latents[1:], latents[0]], strict=True))[: 1 if len(latents) == 2 else None]
    return spread_evenly(pairs, most)


def latent_path(
    codec: Codec, first: Latents, last: Latents, *, path: PathShape, align: Align
) -> tuple[SoundPath, float]:
    """Magnitudes of what the decoder makes along the way from one to the other, and the cycle error of its middle.

    That is ||E(D(z)) - z|| / ||z_first - z_last||: whether the decoder's sound is encoded as where it came from
    (0), or as something else: a place that the encoder doesn't know.
    """
    shares = [[1 - weight, weight] for weight in WEIGHTS]
    between = list(blends([first, last], shares, path=path, fit="trim", align=align, codec=codec))
    spectrograms = torch.cat([codec.spectrogram_of(latents) for latents in between])
    middle = STEPS // 2
    with torch.inference_mode():
        again = codec.checkpoint.model.encode(spectrograms[middle, None, None].to(codec.device)).mean.cpu()
    strayed = (again - between[middle].mean).norm() / (between[0].mean - between[-1].mean).norm()
    magnitude = codec.spectrogram.magnitude(spectrograms.to(codec.device)).cpu()
    return magnitude, float(strayed)


def _against_truth(path: SoundPath, truth: Float[Tensor, "steps bins true_frames"], codec: Codec) -> dict[str, float]:
    # The decoder gives whole latent frames, a little more than there is.
    frames = min(path.shape[-1], truth.shape[-1])
    path, truth, rate = path[..., :frames], truth[..., :frames], _rate(codec)
    return {
        "truth_relative_error": truth_relative_error(path, truth, rate),
        "second_pitch_salience": second_pitch_salience(path[STEPS // 2], rate),
        "endpoint_error_db": endpoint_error_db(path, truth, rate),
    } | _blind(path, codec)


def _blind(path: SoundPath, codec: Codec) -> dict[str, float]:
    """Measures that need no truth."""
    hop_length = codec.config.spectrogram.hop_length
    return {
        "crossfade_residual": crossfade_residual(path),
        "db_residual": db_residual(path, _rate(codec)),
        "descriptor_nonlinearity": descriptor_nonlinearity(path, _rate(codec), hop_length=hop_length),
        "step_variation": step_variation(path, _rate(codec)),
        "onset_contrast": onset_contrast(path, _rate(codec)),
    }


def _controls(sounds: list[Float[Tensor, "1 samples"]], truth: SoundPath, codec: Codec) -> dict[str, SoundPath]:
    mixes = torch.cat([torch.lerp(sounds[0], sounds[-1], weight) for weight in WEIGHTS])
    third = _magnitudes(_levelled(THIRD_TONE.waveform(_rate(codec), samples=sounds[0].shape[1]), codec), codec)[0]
    ends = truth[0], truth[-1]
    return {
        TRUTH: truth,
        "waveform mix": _magnitudes(mixes, codec),
        "dB average": torch.stack([db_average(*ends, weight) for weight in WEIGHTS]),
        "hard switch": torch.stack([hard_switch(*ends, weight) for weight in WEIGHTS]),
        "transport, frame by frame": torch.stack([transport(*ends, weight) for weight in WEIGHTS]),
        "by way of a third sound": torch.stack([by_way_of(third, *ends, weight) for weight in WEIGHTS]),
    } | _aligned_bands(sounds[0], sounds[-1], codec)


def _aligned_bands(a: Float[Tensor, "1 samples"], b: Float[Tensor, "1 samples"], codec: Codec) -> dict[str, SoundPath]:
    """What aligning notes does alone: true bands, brought to the pitch and time between, averaged, inverted.

    And what is left of it if all of a spectrum moves by one interval.
    """
    ends = [codec.spectrogram(sound[None].to(codec.device))[0, 0].cpu() for sound in (a, b)]
    times = common_times(best_lags(*(onset_strength([end]) for end in ends))[None])
    compared = PitchComparison(codec.config.spectrogram)
    compared.add(*(read(end, its) for end, its in zip(ends, times, strict=True)))
    interval = compared.above_semitones()
    voices = compared.voices(interval)
    in_one = _bands_between(ends, times, interval, Voices.none(2, len(interval)), codec)
    own = _bands_between(ends, times, interval, voices, codec) if len(voices.strength) else in_one
    return {"aligned bands, no model": own, "aligned bands, one interval": in_one}


def _bands_between(
    ends: Sequence[Float[Tensor, "n_bands frames"]],
    times: Float[Tensor, "2 frames"],
    interval: Float[Tensor, " frames"],
    voices: Voices,
    codec: Codec,
) -> SoundPath:
    """Magnitudes of the path between spectrograms whose notes belong together so."""
    config, between = codec.config.spectrogram, []
    for weight in WEIGHTS:
        places = common_places(times, torch.tensor([[1 - weight], [weight]]).expand_as(times))
        there = voices.at(places)
        apart = torch.cat([read(interval, places)[None], there.pitches[1] - there.pitches[0]])
        moved = [
            move_voices(
                read(end, read(its, places)),
                voice_shares(pitches, there.strength, config),
                part * apart,
                codec.spectrogram,
            )
            for end, its, pitches, part in zip(ends, times, there.pitches, (weight, weight - 1), strict=True)
        ]
        between.append(torch.lerp(moved[0], moved[1], weight))
    return codec.spectrogram.magnitude(torch.stack(between).to(codec.device)).cpu()


def _magnitudes(waveforms: Float[Tensor, "steps samples"], codec: Codec) -> SoundPath:
    config = codec.config.spectrogram
    return stft_magnitude(waveforms, n_fft=config.n_fft, hop_length=config.hop_length)


def _levelled(waveform: Float[Tensor, "1 samples"], codec: Codec) -> Float[Tensor, "1 samples"]:
    """At the level that the model works at, as the codec sees every sound."""
    return waveform * 10 ** ((codec.config.spectrogram.level_db - level_db(waveform, _rate(codec))) / 20)


def _rate(codec: Codec) -> int:
    return codec.config.spectrogram.sample_rate


def _summaries(found: Mapping[str, list[dict[str, float]]]) -> Rows:
    measures = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))
    return {
        method: {name: summarise([row.get(name, math.nan) for row in rows]) for name in measures}
        for method, rows in found.items()
    }
