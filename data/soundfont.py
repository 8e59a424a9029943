"""Notes played by a SoundFont, through tinysoundfont and without a sound card."""

import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from audiovae.errors import InputError
from corpus import SAMPLE_RATE

DRUMS = 128  # a programme number beyond General MIDI's 0..127: the standard drum kit
DRUM_CHANNEL = 9
GAIN_DB = -6.0

# General MIDI, eight programmes each; the drum kit follows them
FAMILIES = (
    "piano",
    "chromatic percussion",
    "organ",
    "guitar",
    "bass",
    "strings",
    "ensemble",
    "brass",
    "reed",
    "pipe",
    "synth lead",
    "synth pad",
    "synth effects",
    "ethnic",
    "percussive",
    "sound effects",
    "drum kit",
)

# file: Debian package and its licence
KNOWN = {
    "TimGM6mb.sf2": ("timgm6mb-soundfont", "GPL-2"),
    "FluidR3Mono_GM.sf3": ("fluidr3mono-gm-soundfont", "MIT"),
    "MuseScore_General_Lite.sf3": ("musescore-general-soundfont-small", "MIT"),
}


@dataclass(frozen=True, order=True)
class Note:
    """A key held down; `part` says which of the programmes plays it."""

    start: float
    seconds: float
    pitch: int
    velocity: int
    part: int = 0


def family(programme: int) -> str:
    """Return the General MIDI family of a programme, eight programmes each."""
    return FAMILIES[programme // 8]


def origin(font: Path) -> dict[str, str]:
    """Return SoundFont, package and licence as the manifest names them."""
    package, licence = KNOWN.get(font.name, ("unknown", "unknown"))
    return {"soundfont": font.name, "package": package, "licence": licence}


def check_fonts(fonts: Sequence[Path]) -> None:
    """Raises InputError for what is no SoundFont, before hours of work or a machine without a network meet it."""
    for font in fonts:
        if not font.is_file():
            raise InputError(f"{font}: no such file")
        with font.open("rb") as file:
            head = file.read(12)
        if (head[:4], head[8:]) != (b"RIFF", b"sfbk"):
            raise InputError(f"{font}: not a SoundFont")
        if sum(other.name == font.name for other in fonts) > 1:
            raise InputError(f"{font}: given twice, or another SoundFont has this name too")


def render(font: Path, notes: Sequence[Note], programmes: Sequence[int], seconds: float) -> np.ndarray:
    """Play notes with one General MIDI programme a part; return [samples, 2] float32."""
    synth, font_id = _load(font)
    synth.sounds_off()
    synth.generate(SAMPLE_RATE // 5)  # until nothing rings any more
    for part, programme in enumerate(programmes):
        bank_program = (0, 0, True) if programme == DRUMS else (0, programme, False)
        synth.program_select(_channel(part, programme), font_id, *bank_program)
    chunks, position, end = [], 0, round(seconds * SAMPLE_RATE)
    for time, starts, note in sorted(_switches(notes)):
        at = min(time, end)
        if at > position:
            chunks.append(_generate(synth, at - position))
            position = at
        channel = _channel(note.part, programmes[note.part])
        if starts:
            synth.noteon(channel, note.pitch, note.velocity)
        else:
            synth.noteoff(channel, note.pitch)
    if end > position:
        chunks.append(_generate(synth, end - position))
    return np.concatenate(chunks)


def _switches(notes: Sequence[Note]) -> Iterator[tuple[int, bool, Note]]:
    """Yield the sample at which a note begins or ends; sorted, a key is let go before it is struck again."""
    for note in notes:
        yield round(note.start * SAMPLE_RATE), True, note
        yield round((note.start + note.seconds) * SAMPLE_RATE), False, note


def _channel(part: int, programme: int) -> int:
    if programme == DRUMS:
        return DRUM_CHANNEL
    return part if part < DRUM_CHANNEL else part + 1


def _generate(synth: Any, samples: int) -> np.ndarray:
    return np.frombuffer(synth.generate(samples), np.float32).reshape(-1, 2).copy()


@lru_cache(maxsize=4)
def _load(font: Path) -> tuple[Any, int]:
    # tinysoundfont imports pyaudio, which only live sound needs and which has no wheel.
    sys.modules.setdefault("pyaudio", types.ModuleType("pyaudio"))
    import tinysoundfont

    synth = tinysoundfont.Synth(gain=GAIN_DB, samplerate=SAMPLE_RATE)
    return synth, synth.sfload(str(font))
