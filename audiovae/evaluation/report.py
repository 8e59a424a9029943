"""The report: one page that holds all it shows, and the same figures as JSON."""

import base64
import io
import json
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from audiovae.errors import InputError
from audiovae.evaluation.clips import SECONDS
from audiovae.evaluation.latent_map import latent_map
from audiovae.evaluation.log_mel import HOP_LENGTH, N_FFT, N_MELS, RANGE_DB
from audiovae.evaluation.reconstruction import RESOLUTIONS, SHORT_N_FFT
from audiovae.evaluation.records import TARGET, Record
from audiovae.evaluation.run import Evaluation
from audiovae.evaluation.tables import (
    Table,
    in_between_table,
    lecture_table,
    realism_table,
    reconstruction_table,
    truth_table,
)
from audiovae.json_text import to_json
from audiovae.whole_file import whole_file

PAGE, FIGURES = "report.html", "report.json"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b22; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .875rem; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9d9e0; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } audio { width: 15rem; vertical-align: middle; }
.sounds { display: flex; flex-wrap: wrap; gap: .7rem 1.2rem; } .sounds label { display: block; font-size: .875rem; }
.note { color: #55555f; max-width: 60rem; }
"""

_NOTES = {
    "Side by side": "FD-MFCC: distance to real sounds, as below. Change a frame: how much MFCCs differ from one frame "
    "to the next; more than the clips' is a roughness that they don't have. The KL bounds how much the latents tell. "
    "PCA has no prior of its own: its new sounds are drawn from one that is fitted to these very clips.",
    "Reconstruction": f"Of each clip the first {SECONDS:g} s, mono; mean over clips with 95 % confidence interval. "
    f"STFTs: windows of {N_FFT} samples, hops of {HOP_LENGTH}. Log-mel error: mean absolute difference of {N_MELS} "
    f"slaney mels, as amplitudes in dB above a floor {RANGE_DB:g} dB under the clip's peak; other levels have such a "
    f"floor, too. In short windows: the log-spectral distance in windows of {SHORT_N_FFT} samples, which tell smeared "
    "attacks, and noise from what buzzes at the frame rate. Multi-resolution distance: spectral convergence as "
    "a ratio, plus the mean absolute difference of natural logs; mean over windows of "
    f"{', '.join(map(str, RESOLUTIONS))} samples. Griffin-Lim only: no phase is "
    "taken from the input. True bands is the ceiling of the front end: the clip's own bands through the same inversion "
    "and Griffin-Lim; true magnitudes is that of Griffin-Lim alone. PCA is the model's own linear part, with as many "
    "latent values. FD-MusiCNN is a Fréchet distance in the last hidden layer of a music tagger; small sets give "
    "larger values.",
    "In-betweens and the truth": "Between synthetic tones, chords and phrases of different pitches, and between clips "
    "and the same clips transposed, the true in-betweens are known: 0 is the truth, 1 a crossfade in dB. The tables "
    "below say more.",
    "In-betweens of tones, different pitch": "Truth-relative error: as above. A second pitch beside the first means "
    "that both ends are heard. Residuals: what no mix of the two ends explains; where pitch must move, high is right. "
    "The controls show which measures a crossfade can win. Cycle: how far a decoded in-between, encoded again, lies "
    "from where it came from. Pitch only: onsets are not matched; linear: mixed along the straight line, where latents "
    "are shorter; unaligned: without matching anything, either. Aligned bands: matched notes without any model.",
    "In-betweens of chords": "As above, between chords of equally many notes, each with an interval of its own to its "
    "counterpart. One interval: aligned bands again, but the whole spectrum moves by one interval.",
    "In-betweens of phrases": "As above, between melodies of equally many notes, at different pitches and times. Onset "
    "contrast: as high as the truth's if one rhythm is heard, far below it if the rhythms of both ends are.",
    "In-betweens of clips and the same clips transposed": "As above, of real sounds: a phase vocoder makes the truth.",
    "In-betweens of tones, same pitch": "As above, where only colour and envelope have to move.",
    "In-betweens of the clips": "Between neighbouring clips, where nobody knows the truth. A clip may be in two pairs, "
    "so that intervals are a little too narrow.",
    "Like real sounds?": "Fréchet distance of MFCC statistics to those of the clips. New sounds: drawn from the flow "
    "or the mixture that is the model's prior, or from N(0, I), frame by frame.",
}
_PLAYERS_NOTE = (
    "These are MP3s, so that one page can hold them. MP3's own losses are larger than most differences between the "
    "ways; what was measured is the sound before."
)


def check_report(folder: Path, settings: dict[str, Any], *, force: bool) -> None:
    """Raises InputError if the folder holds a report of another evaluation and ``force`` is off."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a folder")
    for name in (PAGE, FIGURES):
        if (folder / name).exists() and not force and _settings_of(folder) != to_json(settings):
            raise InputError(f"{folder}: holds the report of another evaluation (use --force to overwrite)")


def write_report(evaluation: Evaluation, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Writes both files, each whole; returns what the JSON says."""
    facts = {"settings": settings} | figures(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    # The figures first: a run that was stopped before its page was written goes on by the settings in them.
    for name, text in ((FIGURES, to_json(facts, indent=2) + "\n"), (PAGE, page(evaluation))):
        with whole_file(folder / name, force=True) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return facts


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Every number of the evaluation."""
    return {
        "reconstruction": _plain(evaluation.reconstruction),
        "in_betweens": _plain(
            evaluation.tones
            | {"chords": evaluation.chords, "phrases": evaluation.phrases}
            | {"transposed": evaluation.transposed, "clips": evaluation.clip_pairs}
        ),
        "realism": {
            name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in evaluation.realism.items()
        },
        "real_change_db": evaluation.real_change_db,
        "latent_use": {name: asdict(use) for name, use in evaluation.latent_use.items()},
        "clips": [
            {"path": str(record.clip.path), "name": record.clip.name, "group": record.clip.group}
            | {"measures": record.measures}
            for record in evaluation.records
        ],
        "failures": [asdict(failure) for failure in evaluation.failures],
        "not_measured": evaluation.not_measured,
    }


def page(evaluation: Evaluation) -> str:
    """HTML that needs no other file and no network."""
    sections = {
        "Side by side": lecture_table(evaluation),
        "Reconstruction": reconstruction_table(evaluation),
        "In-betweens and the truth": truth_table(evaluation),
        "In-betweens of tones, different pitch": in_between_table(evaluation.tones["different pitch"]),
        "In-betweens of tones, same pitch": in_between_table(evaluation.tones["same pitch"]),
        "In-betweens of chords": in_between_table(evaluation.chords),
        "In-betweens of phrases": in_between_table(evaluation.phrases),
        "In-betweens of clips and the same clips transposed": in_between_table(evaluation.transposed),
        "In-betweens of the clips": in_between_table(evaluation.clip_pairs),
        "Like real sounds?": realism_table(evaluation),
    }
    body = [f"<h1>audiovae evaluate</h1>{_about(evaluation)}"]
    for title, table in sections.items():
        if table.rows:
            body.append(f"<h2>{escape(title)}</h2><p class=note>{escape(_NOTES[title])}</p>{_html(table)}")
    body.append(_latents(evaluation))
    labels = _labels(evaluation)
    shown = zip(evaluation.records, labels, strict=True)
    players = "".join(_sounds(record, label) for record, label in shown if record.picture)
    body.append(f"<h2>Listen</h2><p class=note>{_PLAYERS_NOTE}</p>{players}")
    if evaluation.failures:
        failed = Table(["clip", "why it was left out"], [[one.clip, one.reason] for one in evaluation.failures])
        body.append(f"<h2>Left out</h2>{_html(failed)}")
    head = f"<meta charset=utf-8><title>audiovae evaluate</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _about(evaluation: Evaluation) -> str:
    models = Table(
        ["model", "checkpoint", "fingerprint", "latent values a second"],
        [
            [name, Path(codec.checkpoint.source).name, codec.fingerprint, f"{_values(evaluation, name):.0f}"]
            for name, codec in evaluation.models.items()
        ],
    )
    seconds = sum(next(iter(record.latents.values())).duration_seconds for record in evaluation.records)
    clips = f"{len(evaluation.records)} clips, {seconds:.0f} s in all; quality {evaluation.quality}."
    missing = "".join(f"<p>Not measured: {escape(line)}.</p>" for line in evaluation.not_measured)
    return f"<p>{clips} Arrows: ↓ lower is better, ↑ higher is better.</p>{missing}{_html(models)}"


def _values(evaluation: Evaluation, name: str) -> float:
    config = evaluation.models[name].config
    return config.latent_rate * config.model.latent_channels


def _latents(evaluation: Evaluation) -> str:
    groups = {record.clip.group for record in evaluation.records}
    labels = [record.clip.group if len(groups) > 1 else record.clip.name for record in evaluation.records]
    latents = {name: [record.latents[name] for record in evaluation.records] for name in evaluation.models}
    png = io.BytesIO()
    latent_map(latents, labels).save(png, format="PNG")
    note = (
        "Each point is a latent frame, on the two axes along which the clips' vary most (PCA); grey: samples of "
        "N(0, I), which the KL pulls them towards. Where the two don't overlap, a sample of N(0, I) is like no "
        "clip: new sounds are drawn from a prior that was learnt from the latents."
    )
    return f"<h2>Latent spaces</h2><p class=note>{note}</p><img alt='' src='{_embedded(png.getvalue(), 'image/png')}'>"


def _labels(evaluation: Evaluation) -> list[str]:
    """What clips are called where those of several groups lie side by side."""
    several = len({record.clip.group for record in evaluation.records}) > 1
    return [
        f"{record.clip.group}: {record.clip.name}" if several else record.clip.name for record in evaluation.records
    ]


def _sounds(record: Record, label: str) -> str:
    sounds = record.sounds  # in the order of the alphabet; shown as in the picture
    players = "".join(
        f"<label>{escape(way)}<br><audio controls preload=none src='{_embedded(data, 'audio/mpeg')}'></audio></label>"
        for way, data in ((one, sounds[one]) for one in (TARGET, *record.measures))
    )
    picture = _embedded(record.picture or b"", "image/png")
    return f"<h3>{escape(label)}</h3><div class=sounds>{players}</div><img alt='' src='{picture}'>"


def _embedded(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _html(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _plain(groups: dict[str, Any]) -> dict[str, Any]:
    """Summaries as dictionaries."""
    return {
        group: {way: {name: asdict(value) for name, value in found.items()} for way, found in rows.items()}
        for group, rows in groups.items()
    }


def _settings_of(folder: Path) -> str | None:
    """Those of the report that is there."""
    try:
        return to_json(json.loads((folder / FIGURES).read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
