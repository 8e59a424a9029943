"""The clips that are evaluated: which, and how each is brought to what the model works at."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from audiovae.audio import Audio, AudioFile
from audiovae.audio_folder import find_audio
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.level import LevelMeter

Thing = TypeVar("Thing")

SECONDS = 10.0
"""Of each clip, from its start, that are evaluated."""
SHORTEST_SECONDS = 0.5
PACKAGE = Path(__file__).parents[1]
EXAMPLE_FOLDERS = (PACKAGE.parent / "data" / "examples", PACKAGE / "examples")
"""In a checkout all example clips; in an installed package the few that it holds."""


@dataclass(frozen=True)
class Clip:
    """One audio file, and what it is called in the report."""

    path: Path
    name: str
    group: str
    """The folder that was given, which gets a summary of its own."""


def example_folder() -> Path:
    """Where the shipped clips are. Raises InputError if there are none."""
    for folder in EXAMPLE_FOLDERS:
        if folder.is_dir():
            return folder
    raise InputError("examples: none are installed here; name clips or folders of them")


def find_clips(paths: Sequence[Path], *, limit: int | None = None) -> list[Clip]:
    """The audio files, each once; of a folder at most ``limit``, spread evenly. Raises InputError for a bad path."""
    clips: dict[str, Clip] = {}
    folders = [path for path in paths if path.is_dir()]
    groups = dict(zip(folders, _told_apart(folders), strict=True))
    for path in paths:
        files = find_audio(path) if path in groups else [path]
        if not files or not path.exists():
            raise InputError(f"{path}: {'no audio files in it' if path.exists() else 'no such file or folder'}")
        named = _names_in(path, files) if path in groups else {path: path.stem}
        for file in files if limit is None else spread_evenly(files, limit):
            clips.setdefault(os.path.abspath(file), Clip(file, named[file], groups.get(path, "clips")))
    return list(clips.values())


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """What folders are called: by as many of their last parts, two at least, as it takes to tell them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names: list[str] = []
    for count in range(2, max([2, *map(len, parts)]) + 1):
        names = [Path(*its[-count:]).as_posix() for its in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _names_in(folder: Path, files: Sequence[Path]) -> dict[Path, str]:
    """What the files of a folder are called: without their suffix, unless it is all they differ in."""
    stems = Counter(file.with_suffix("") for file in files)
    plain = {file: file.with_suffix("") if stems[file.with_suffix("")] == 1 else file for file in files}
    return {file: str(path.relative_to(folder)) for file, path in plain.items()}


def load_clip(clip: Clip, codec: Codec) -> Audio:
    """The clip's first seconds, mono, at the model's rate and level, and without an offset: as the model sees them.

    Raises InputError if it can't be read, is too short, or silent.
    """
    config = codec.config.spectrogram
    file = AudioFile(clip.path)
    audio = Audio(next(file.blocks(config.sample_rate, round(SECONDS * config.sample_rate))), config.sample_rate)
    if audio.duration_seconds < SHORTEST_SECONDS:
        raise InputError(f"{clip.path}: shorter than {SHORTEST_SECONDS:g} s, too short to be measured")
    waveform = audio.waveform.mean(0, keepdim=True)
    meter = LevelMeter(config.sample_rate)
    meter.add(waveform)
    if meter.level_db == -math.inf:
        raise InputError(f"{clip.path}: silent, there is nothing to measure")
    gain = 10 ** ((config.level_db - meter.level_db) / 20)
    return replace(audio, waveform=(waveform - meter.offset.float()[:, None]) * gain, source=str(clip.path))


def spread_evenly(things: Sequence[Thing], most: int) -> list[Thing]:
    """At most so many of them, from the first to the last."""
    if len(things) <= most:
        return list(things)
    return [things[round(place)] for place in np.linspace(0, len(things) - 1, most)]
