"""Paths between sounds by models and by their controls, measured: tones whose truth is known, and the user's clips."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.evaluation.clips import spread_evenly
from audiovae.evaluation.controls import controls, levelled, magnitudes_of
from audiovae.evaluation.log_mel import log_mel_db
from audiovae.evaluation.morphing import (
    PathLevels,
    SoundPath,
    TruePath,
    crossfade_residual,
    db_residual,
    descriptor_nonlinearity,
    onset_contrast,
    second_pitch_salience,
    step_variation,
)
from audiovae.evaluation.summary import Summary, summarise
from audiovae.evaluation.tones import Chord, Phrase, Tone, chord_pairs, phrase_pairs, tone_pairs
from audiovae.interpolation import Align, Morph
from audiovae.latents import Latents
from audiovae.level import level_db
from audiovae.mixing import PathShape

STEPS = 9
WEIGHTS = [step / (STEPS - 1) for step in range(STEPS)]
TONE_PAIRS = 10
"""Of each kind: of different pitch, and of the same."""
CHORD_PAIRS = 10
PHRASE_PAIRS = 6
MIDDLES, CLIP_PAIRS = 100, 24
"""Pairs of neighbours in the list of clips, at most: of which the middle is made, and of which the whole path. Fewer
middles would be too few to be compared with all clips."""
TRANSPOSITIONS, TRANSPOSED_SECONDS = (5.0, -4.0, 7.0, -3.0, 2.5, -8.0), 4.0
"""Semitones between each clip and its transposition (no more clips than these), and how much of each clip is taken."""
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

Known = TypeVar("Known", Tone, Chord, Phrase)
"""Sounds whose in-betweens are known."""
Rows = dict[str, dict[str, Summary]]
"""By method, by measure."""
Middles = dict[str, list[Latents]]
"""By way, what lies half way between neighbouring clips."""


def tone_in_betweens(codecs: Mapping[str, Codec], *, same_pitch: bool, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of synthetic tones whose in-betweens are known."""
    paths = _true_paths(tone_pairs(TONE_PAIRS, same_pitch=same_pitch), codecs)
    return known_in_betweens(codecs, paths, advance, ONE_RHYTHM)


def chord_in_betweens(codecs: Mapping[str, Codec], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of chords of such tones, each of whose notes moves by an interval of its own."""
    paths = _true_paths(chord_pairs(CHORD_PAIRS), codecs)
    return of_several_pitches(known_in_betweens(codecs, paths, advance, ONE_RHYTHM))


def phrase_in_betweens(codecs: Mapping[str, Codec], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on pairs of phrases of such tones, whose rhythms differ."""
    paths = _true_paths(phrase_pairs(PHRASE_PAIRS), codecs)
    return of_several_pitches(known_in_betweens(codecs, paths, advance, WAYS))


def _true_paths(
    pairs: Iterable[tuple[Known, Known]], codecs: Mapping[str, Codec]
) -> Iterator[list[Float[Tensor, "1 samples"]]]:
    """The waveforms from one of each pair to the other."""
    rate = _rate(next(iter(codecs.values())))
    return ([first.between(last, weight).waveform(rate) for weight in WEIGHTS] for first, last in pairs)


def of_several_pitches(rows: Rows) -> Rows:
    """Without the salience of a second pitch: in chords and phrases it doesn't mean that both ends are heard."""
    return {
        method: {name: found for name, found in row.items() if name != "second_pitch_salience"}
        for method, row in rows.items()
    }


def transposed_in_betweens(codecs: Mapping[str, Codec], clips: Sequence[Audio], *, advance: Callable[[], None]) -> Rows:
    """Models and controls on the way from clips, as ``load_clip`` gives them, to the same clips transposed.

    A phase vocoder (librosa's) transposes them, and so makes the true in-betweens of real music.
    """
    rate = _rate(next(iter(codecs.values())))

    def path(clip: Audio, semitones: float) -> list[Float[Tensor, "1 samples"]]:
        parts = clip.waveform.split(round(TRANSPOSED_SECONDS * rate), dim=1)
        part = next(part for part in parts if level_db(part, rate) > -math.inf)  # it may begin with silence
        return [torch.from_numpy(pitch_shifted(part[0].numpy(), rate, weight * semitones))[None] for weight in WEIGHTS]

    paths = (path(*one) for one in zip(clips, TRANSPOSITIONS, strict=False))
    return known_in_betweens(codecs, paths, advance, ONE_RHYTHM)


def pitch_shifted(
    waveform: Float[np.ndarray, " samples"], sample_rate: int, semitones: float
) -> Float[np.ndarray, " samples"]:
    """The same at another pitch, by librosa's phase vocoder."""
    from librosa.effects import pitch_shift

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa 1.0 warns of how it calls itself, and of memory not yet written
        return pitch_shift(waveform, sr=sample_rate, n_steps=semitones)


def known_in_betweens(
    codecs: Mapping[str, Codec],
    paths: Iterable[list[Float[Tensor, "1 samples"]]],
    advance: Callable[[], None],
    ways: Mapping[str, tuple[PathShape, Align]],
) -> Rows:
    """Models and controls from the first to the last waveform of each true path."""
    found: dict[str, list[dict[str, float]]] = {}
    codec = next(iter(codecs.values()))
    for waveforms in paths:
        sounds = [levelled(waveform, codec) for waveform in waveforms]
        magnitudes = magnitudes_of(torch.cat(sounds), codec)
        truth = TruePath(magnitudes, _rate(codec))
        for name, path in ({TRUTH: magnitudes} | controls(sounds[0], sounds[-1], WEIGHTS, codec)).items():
            found.setdefault(name, []).append(_against_truth(path, truth, codec))
        _add_models(found, codecs, sounds, truth, ways)
        advance()
    return _summaries(found)


def clip_in_betweens(
    codecs: Mapping[str, Codec], clips: Mapping[str, Sequence[Latents]], *, advance: Callable[[], None]
) -> tuple[Rows, dict[str, Middles]]:
    """Models, on pairs of clips; of what lies between real sounds nobody knows the truth. And by model the middles."""
    found: dict[str, list[dict[str, float]]] = {}
    all_middles: dict[str, Middles] = {}
    for name, codec in codecs.items():
        pairs = neighbours(clips[name], most=MIDDLES)
        whole = set(spread_evenly(range(len(pairs)), CLIP_PAIRS))
        middles = all_middles[name] = {way: [] for way in WAYS}
        for index, (first, last) in enumerate(pairs):
            paths = in_betweens(codec, first, last, WAYS, WEIGHTS if index in whole else [0.5])
            for way, path in paths.items():
                middles[way].append(path[len(path) // 2])
                if index in whole:
                    sounds, cycle = _decoded(codec, path)
                    measures = _blind(sounds, log_mel_db(sounds, _rate(codec)), codec)
                    found.setdefault(named(name, way), []).append(measures | {"cycle": cycle})
        advance()
    return _summaries(found), all_middles


def clip_middles(codec: Codec, clips: Sequence[Latents]) -> Middles:
    """What lies half way between neighbours, alone."""
    pairs = neighbours(clips, most=MIDDLES)
    paths = [in_betweens(codec, first, last, WAYS, [0.5]) for first, last in pairs]
    return {way: [path[way][0] for path in paths] for way in WAYS}


def named(name: str, way: str) -> str:
    """A model's path of this way in the tables."""
    return f"{name}, {way}" if way else name


def ways_of(name: str, ways: Mapping[str, tuple[PathShape, Align]] = WAYS) -> dict[str, tuple[PathShape, Align]]:
    """A model's paths by their names in the tables."""
    return {named(name, way): how for way, how in ways.items()}


def _add_models(
    found: dict[str, list[dict[str, float]]],
    codecs: Mapping[str, Codec],
    sounds: list[Float[Tensor, "1 samples"]],
    truth: TruePath,
    ways: Mapping[str, tuple[PathShape, Align]],
) -> None:
    for name, codec in codecs.items():
        first, last = (codec.encode(Audio(sounds[step], _rate(codec), source=f"sound {step}")) for step in (0, -1))
        for way, (made, cycle) in latent_paths(codec, first, last, ways_of(name, ways)).items():
            found.setdefault(way, []).append(_against_truth(made, truth, codec) | {"cycle": cycle})


def neighbours(latents: Sequence[Latents], *, most: int) -> list[tuple[Latents, Latents]]:
    """Each clip with the next one, the last with the first; at most so many pairs, spread evenly over the list."""
    if len(latents) < 2:
        return []
    pairs = list(zip(latents, [*latents[1:], latents[0]], strict=True))[: 1 if len(latents) == 2 else None]
    return spread_evenly(pairs, most)


def latent_paths(
    codec: Codec, first: Latents, last: Latents, ways: Mapping[str, tuple[PathShape, Align]]
) -> dict[str, tuple[SoundPath, float]]:
    """Magnitudes of what the decoder makes along these ways from one to the other, and the cycle error of each."""
    between = in_betweens(codec, first, last, ways, WEIGHTS)
    return {way: _decoded(codec, path) for way, path in between.items()}


def in_betweens(
    codec: Codec,
    first: Latents,
    last: Latents,
    ways: Mapping[str, tuple[PathShape, Align]],
    weights: Sequence[float],
) -> dict[str, list[Latents]]:
    """By way, latents at these weights between two recordings.

    The shapes of a path are made one after the other for each weight, since they have most of their work in common.
    """
    morphs = {align: Morph([first, last], fit="trim", align=align, codec=codec) for _, align in ways.values()}
    found: dict[str, list[Latents]] = {way: [] for way in ways}
    for weight in weights:
        for way, (path, align) in ways.items():
            found[way].append(morphs[align].at([1 - weight, weight], path=path))
    return found


def _decoded(codec: Codec, between: Sequence[Latents]) -> tuple[SoundPath, float]:
    """Magnitudes of what the decoder makes of a path, and the cycle error of its middle.

    That is ||E(D(z)) - z|| / ||z_first - z_last||: 0 if the decoder's sound is encoded as the latents that it came
    from; more, the further these lie from what the encoder knows.
    """
    means = codec.all_channels(torch.cat([latents.mean for latents in between]))
    spectrograms = torch.cat(list(codec.spectrogram_chunks(means)), dim=-1)
    middle = STEPS // 2
    with torch.inference_mode():
        again = codec.checkpoint.model.encode(spectrograms[middle, None, None].to(codec.device)).mean.cpu()
    strayed = (again - between[middle].mean).norm() / (between[0].mean - between[-1].mean).norm()
    magnitude = codec.spectrogram.magnitude(spectrograms.to(codec.device)).cpu()
    return magnitude, float(strayed)


def _against_truth(path: SoundPath, truth: TruePath, codec: Codec) -> dict[str, float]:
    # The decoder gives whole latent frames, a little more than there is.
    path = path[..., : truth.frames]
    path_db = log_mel_db(path, _rate(codec))
    return {
        "truth_relative_error": truth.relative_error(path_db),
        "second_pitch_salience": second_pitch_salience(path[STEPS // 2], _rate(codec)),
        "endpoint_error_db": truth.endpoint_error_db(path_db),
    } | _blind(path, path_db, codec)


def _blind(path: SoundPath, path_db: PathLevels, codec: Codec) -> dict[str, float]:
    """Measures that need no truth."""
    hop_length = codec.config.spectrogram.hop_length
    return {
        "crossfade_residual": crossfade_residual(path),
        "db_residual": db_residual(path_db),
        "descriptor_nonlinearity": descriptor_nonlinearity(path, _rate(codec), hop_length=hop_length),
        "step_variation": step_variation(path_db),
        "onset_contrast": onset_contrast(path_db),
    }


def _rate(codec: Codec) -> int:
    return codec.config.spectrogram.sample_rate


def _summaries(found: Mapping[str, list[dict[str, float]]]) -> Rows:
    measures = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))
    return {
        method: {name: summarise([row.get(name, math.nan) for row in rows]) for name in measures}
        for method, rows in found.items()
    }
