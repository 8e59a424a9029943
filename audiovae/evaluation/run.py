"""The whole evaluation: clip by clip, then what needs all clips."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.evaluation.baselines import pca_codec
from audiovae.evaluation.clips import Clip, load_clip, spread_evenly
from audiovae.evaluation.controls import CONTROLS
from audiovae.evaluation.frechet import frechet_distance, mean_change_db
from audiovae.evaluation.in_betweens import (
    CHORD_PAIRS,
    PHRASE_PAIRS,
    TONE_PAIRS,
    TRANSPOSITIONS,
    TRUTH,
    Rows,
    chord_in_betweens,
    clip_in_betweens,
    phrase_in_betweens,
    tone_in_betweens,
    transposed_in_betweens,
)
from audiovae.evaluation.latent_use import LatentUse, latent_use
from audiovae.evaluation.musicnn import why_not_musicnn
from audiovae.evaluation.perceptual import why_not_zimtohrli
from audiovae.evaluation.realism import Likeness, fit_prior, realism
from audiovae.evaluation.records import TARGET, TRUE_BANDS, TRUE_MAGNITUDES, Record, RecordRefused, record_clip
from audiovae.evaluation.summary import Summary, summarise

PCA = "PCA"
SHOWN_CLIPS = 10
"""Clips whose pictures and sounds are in the report, spread evenly."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Failure:
    """A clip that couldn't be evaluated, or not in all respects, and why."""

    clip: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """All that was measured."""

    models: dict[str, Codec]
    quality: str
    records: list[Record]
    failures: list[Failure]
    reconstruction: dict[str, Rows]
    """By group of clips."""
    tones: dict[str, Rows]
    """In-betweens of tones, whose truth is known, of different and of the same pitch."""
    chords: Rows
    """In-betweens of chords of tones, each of whose notes moves by an interval of its own."""
    phrases: Rows
    """In-betweens of phrases of tones, of different pitches and rhythms; their truth is known too."""
    transposed: Rows
    """In-betweens of clips and the same clips transposed, whose truth is known too."""
    clip_pairs: Rows
    """In-betweens of neighbouring clips."""
    realism: dict[str, dict[str, Likeness]]
    """By model, by kind of sounds."""
    real_change_db: float
    """Of the clips' MFCCs, from frame to frame."""
    latent_use: dict[str, LatentUse]
    not_measured: list[str]
    """What, and why not."""


def with_baselines(codec: Codec, others: Mapping[str, Codec]) -> dict[str, Codec]:
    """The models side by side: the one in question first, its PCA, and other checkpoints by the names given."""
    name = "VAE" if codec.config.model.variational else "autoencoder"
    pca = pca_codec(codec)
    reserved = {name, PCA, TARGET, TRUE_BANDS, TRUE_MAGNITUDES, TRUTH, *CONTROLS}
    for other_name, other in others.items():
        if other_name in reserved:
            raise InputError(f"--compare {other_name}: the name is taken, give it another")
        if "," in other_name:  # "VAE, linear" is a way of a model
            raise InputError(f"--compare {other_name}: a name without a comma is needed")
        if _stft(other) != _stft(codec):
            raise InputError(
                f"--compare {other_name}: works on {_stft(other)}, the model in question on {_stft(codec)}; "
                "they can't be compared frame by frame"
            )
    return {name: codec} | ({PCA: pca} if pca else {}) | dict(others)


def _stft(codec: Codec) -> str:
    config = codec.config.spectrogram
    return f"{config.sample_rate} Hz, windows of {config.n_fft} and hops of {config.hop_length} samples"


def evaluate(
    models: Mapping[str, Codec],
    clips: Sequence[Clip],
    folder: Path,
    *,
    quality: str = "standard",
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Measures the models (the first is the one in question) on the clips; keeps each clip's record in ``folder``.

    A clip that can't be used is listed, not fatal. Raises InputError if none can.
    """
    models = dict(models)
    known = 2 * TONE_PAIRS + CHORD_PAIRS + PHRASE_PAIRS + min(len(TRANSPOSITIONS), len(clips))
    total, done = len(clips) + known + 2 * len(models), itertools.count()

    def advance() -> None:
        progress(next(done), total)

    advance()
    records, failures = _record_all(models, clips, folder, quality=quality, force=force, advance=advance)
    tones = {
        kind: tone_in_betweens(models, same_pitch=same_pitch, advance=advance)
        for kind, same_pitch in (("different pitch", False), ("same pitch", True))
    }
    chords = chord_in_betweens(models, advance=advance)
    phrases = phrase_in_betweens(models, advance=advance)
    targets, vanished = _to_transpose(models, records)
    transposed = transposed_in_betweens(models, targets, advance=advance)
    for _ in range(min(len(TRANSPOSITIONS), len(clips)) - len(targets)):  # counted beforehand for clips that failed
        advance()
    latents = {name: [record.latents[name] for record in records] for name in models}
    real = torch.cat([record.features for record in records])
    priors = {name: codec.prior for name, codec in models.items()}
    if PCA in models:
        priors[PCA] = fit_prior(latents[PCA], models[PCA].checkpoint.model.components.scale)
    clip_pairs, middles = clip_in_betweens(models, latents, advance=advance)
    return Evaluation(
        models=models,
        quality=quality,
        records=records,
        failures=failures + vanished,
        reconstruction=_reconstruction(records),
        tones=tones,
        chords=chords,
        phrases=phrases,
        transposed=transposed,
        clip_pairs=clip_pairs,
        realism={
            name: realism(codec, priors[name], latents[name], middles[name], real, advance=advance)
            for name, codec in models.items()
        },
        real_change_db=mean_change_db(real),
        latent_use={name: latent_use(codec.config, latents[name]) for name, codec in models.items() if name != PCA},
        not_measured=_not_measured(),
    )


def _record_all(
    models: Mapping[str, Codec],
    clips: Sequence[Clip],
    folder: Path,
    *,
    quality: str,
    force: bool,
    advance: Callable[[], None],
) -> tuple[list[Record], list[Failure]]:
    """Clip by clip, those that can be used and those that can't. Raises InputError if none can."""
    shown = set(spread_evenly(range(len(clips)), SHOWN_CLIPS))
    records: list[Record] = []
    failures: list[Failure] = []
    for index, clip in enumerate(clips):
        try:
            records.append(record_clip(clip, models, folder, quality=quality, shown=index in shown, force=force))
        except RecordRefused:
            raise
        except (InputError, OSError) as error:
            failures.append(Failure(str(clip.path), str(error).removeprefix(f"{clip.path}: ")))
        advance()
    if not records:
        raise InputError(f"{failures[0].clip}: {failures[0].reason} (none of {len(clips)} clips could be used)")
    return records, failures


def _to_transpose(models: Mapping[str, Codec], records: Sequence[Record]) -> tuple[list[Audio], list[Failure]]:
    """Some of the clips again, spread evenly, and those that are no longer what they were when they were measured."""
    loaded: list[Audio] = []
    failures: list[Failure] = []
    for record in spread_evenly(records, len(TRANSPOSITIONS)):
        try:
            loaded.append(load_clip(record.clip, next(iter(models.values()))))
        except (InputError, OSError) as error:
            reason = str(error).removeprefix(f"{record.clip.path}: ")
            failures.append(Failure(str(record.clip.path), f"measured, but not transposed: {reason}"))
    return loaded, failures


def _reconstruction(records: Sequence[Record]) -> dict[str, Rows]:
    """By group of clips, by way, by measure."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.clip.group, []).append(record)
    return {name: {way: _means(some, way) for way in some[0].measures} for name, some in groups.items()}


def _means(records: Sequence[Record], way: str) -> dict[str, Summary]:
    """Of a way's measures over clips, and MusiCNN's distance of all windows together."""
    names = records[0].measures[way]
    means = {name: summarise([record.measures[way][name] for record in records]) for name in names}
    return means | {"fd_musicnn": _fd_musicnn(records, way)}


def _fd_musicnn(records: Sequence[Record], way: str) -> Summary:
    pairs = [(record.embedding(way), record.embedding(TARGET)) for record in records]
    made, true = ([one for one in some if one is not None] for some in zip(*pairs, strict=True))
    if not made:
        return Summary(math.nan, math.nan, 0)
    return Summary(frechet_distance(torch.cat(made), torch.cat(true)), math.nan, sum(len(one) for one in made))


def _not_measured() -> list[str]:
    reasons = {"Zimtohrli MOS": why_not_zimtohrli(), "FD-MusiCNN": why_not_musicnn()}
    return [f"{what}: {why}" for what, why in reasons.items() if why]
