"""An evaluation as tables of words: the same for the page, the terminal and documents."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from audiovae.evaluation.in_betweens import Rows, ways_of
from audiovae.evaluation.run import PCA, Evaluation
from audiovae.evaluation.summary import Summary

RECONSTRUCTION = {
    "log_mel_error_db": "log-mel error, dB ↓",
    "spectral_convergence_db": "spectral convergence, dB ↓",
    "log_spectral_distance_db": "log-spectral distance, dB ↓",
    "short_window_distance_db": "in short windows, dB ↓",
    "multi_resolution_distance": "multi-resolution STFT distance ↓",
    "zimtohrli_mos": "Zimtohrli MOS ↑",
    "fd_musicnn": "FD-MusiCNN ↓",
}
IN_BETWEENS = {
    "truth_relative_error": "truth-relative error ↓",
    "second_pitch_salience": "second pitch's salience ↓",
    "crossfade_residual": "crossfade residual",
    "db_residual": "dB residual",
    "descriptor_nonlinearity": "descriptors off the line ↓",
    "step_variation": "step variation ↓",
    "onset_contrast": "onset contrast",
    "cycle": "cycle ↓",
    "endpoint_error_db": "endpoint error, dB ↓",
}


@dataclass(frozen=True)
class Table:
    """Cells of text under a header."""

    header: list[str]
    rows: list[list[str]]


def reconstruction_table(evaluation: Evaluation) -> Table:
    """Each group's ways through the system: models, then ceilings."""
    measures = _measured(evaluation.reconstruction, RECONSTRUCTION)
    rows = []
    for group, ways in evaluation.reconstruction.items():
        for way, found in ways.items():
            count = found["log_mel_error_db"].count
            rows.append([f"{group}, {count} clip{'s' * (count > 1)}", way, *_cells(found, measures)])
    return Table(["audio", "way", *measures.values()], rows)


def in_between_table(rows: Rows) -> Table:
    """Methods by measures."""
    measures = _measured({"": rows}, IN_BETWEENS)
    return Table(["method", *measures.values()], [[name, *_cells(found, measures)] for name, found in rows.items()])


def truth_table(evaluation: Evaluation) -> Table:
    """Methods by kinds of sounds between which the truth is known."""
    kinds = {
        "tones": evaluation.tones["different pitch"],
        "chords": evaluation.chords,
        "phrases": evaluation.phrases,
        "music": evaluation.transposed,
    }
    known = {kind: rows for kind, rows in kinds.items() if rows}
    errors = [
        [name, *("–" if name not in rows else rows[name]["truth_relative_error"].text() for rows in known.values())]
        for name in dict.fromkeys(name for rows in known.values() for name in rows)
    ]
    return Table(["truth-relative error ↓", *known], errors)


def realism_table(evaluation: Evaluation) -> Table:
    """FD-MFCC of each model's kinds of sounds."""
    kinds = _kinds(evaluation)
    rows = [[name, *(_number(found[kind].fd_mfcc, 0) for kind in kinds)] for name, found in evaluation.realism.items()]
    return Table(["FD-MFCC to the clips ↓", *kinds], rows)


def lecture_table(evaluation: Evaluation) -> Table:
    """What the lecture claims of PCA, autoencoder and VAE, side by side: one column each."""
    names = sorted(evaluation.models, key=lambda one: one != PCA)
    rows = [
        [f"reconstruction of {group}: log-mel error, dB ↓", *(ways[name]["log_mel_error_db"].text() for name in names)]
        for group, ways in evaluation.reconstruction.items()
    ]
    for kind, found in (("chords", evaluation.chords), ("phrases", evaluation.phrases)):
        for title, *own in zip(ways_of(f"in-betweens of {kind}"), *map(ways_of, names), strict=True):
            if all(way in found for way in own):
                errors = (found[way]["truth_relative_error"].text() for way in own)
                rows.append([f"{title}: truth-relative error ↓", *errors])
    for kind in _kinds(evaluation):
        rows.append([f"{kind}: FD-MFCC ↓", *(_number(evaluation.realism[name][kind].fd_mfcc, 0) for name in names)])
    for kind in (kind for kind in _kinds(evaluation) if "in-betweens, " not in kind):  # one way of them will do
        changes = (_number(evaluation.realism[name][kind].change_db, 2) for name in names)
        rows.append([f"{kind}: change a frame, dB (clips: {evaluation.real_change_db:.2f})", *changes])
    uses = [evaluation.latent_use.get(name) for name in names]
    rows.append(["KL, bits a second", *("none" if use is None else _number(use.kl_bits_a_second, 0) for use in uses)])
    active = ("all" if use is None else f"{use.active_channels} of {use.channels}" for use in uses)
    return Table(["", *names], [*rows, ["active channels", *active]])


def _kinds(evaluation: Evaluation) -> list[str]:
    """The kinds of sounds that at least one model has."""
    models = evaluation.realism.values()
    return [kind for kind in next(iter(models)) if not all(math.isnan(found[kind].fd_mfcc) for found in models)]


def _measured(groups: Mapping[str, Rows], titles: dict[str, str]) -> dict[str, str]:
    """The columns that have any number."""
    known = {
        name
        for rows in groups.values()
        for found in rows.values()
        for name, value in found.items()
        if not math.isnan(value.mean)
    }
    return {name: title for name, title in titles.items() if name in known}


def _cells(found: Mapping[str, Summary], measures: Mapping[str, str]) -> list[str]:
    return ["–" if math.isnan(found[name].mean) else found[name].text() for name in measures]


def _number(value: float, digits: int) -> str:
    return "none" if math.isnan(value) else f"{value:.{digits}f}"
