"""Notes out of a Standard MIDI File, track by track: which part plays a note is kept, its instrument is not."""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audiovae.errors import InputError
from soundfont import Note

DRUM_CHANNEL = 9
DEFAULT_TEMPO = 500_000  # microseconds a quarter note
HEADER_BYTES = 14
CHUNK_BYTES = 8


@dataclass(frozen=True)
class _Event:
    """A key pressed (velocity > 0) or released (0), or, where `tempo` is not 0, a change of tempo."""

    tick: int
    part: tuple[int, int] = (0, 0)
    pitch: int = 0
    velocity: int = 0
    tempo: int = 0


def read(path: Path) -> list[Note]:
    """Return the notes of a file by time; parts are numbered from the highest to the lowest, drums left out."""
    data = path.read_bytes()
    if data[:4] != b"MThd":
        raise InputError(f"{path}: not a MIDI file")
    ticks_per_quarter = int.from_bytes(data[12:14], "big")
    try:
        events = [event for number, track in enumerate(_tracks(data)) for event in _events(track, number)]
    except IndexError as error:
        raise InputError(f"{path}: damaged or cut off") from error
    if not ticks_per_quarter:
        raise InputError(f"{path}: damaged: a quarter note has no ticks")
    events.sort(key=lambda event: (event.tick, event.tempo == 0, event.velocity))
    return _number_parts(list(_notes(events, ticks_per_quarter)))


def check_archive(path: Path) -> None:
    """Raises InputError for what is no tar archive with MIDI files."""
    try:
        with tarfile.open(path) as archive:
            names = archive.getnames()
    except tarfile.TarError as error:
        raise InputError(f"{path}: neither a folder nor a tar archive") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged or cut off") from error
    if not any(name.endswith(".mid") for name in names):
        raise InputError(f"{path}: no .mid files in it")


def _tracks(data: bytes) -> Iterator[bytes]:
    at = HEADER_BYTES
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "big")
        if data[at : at + 4] == b"MTrk":
            yield data[at + CHUNK_BYTES : at + CHUNK_BYTES + length]
        at += CHUNK_BYTES + length


def _variable_length(track: bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at a byte, seven bits a byte, and where it ends."""
    value = 0
    while True:
        value, at = value << 7 | track[at] & 0x7F, at + 1
        if track[at - 1] < 0x80:
            return value, at


def _events(track: bytes, number: int) -> Iterator[_Event]:
    at = tick = status = 0
    while at < len(track):
        delta, at = _variable_length(track, at)
        tick += delta
        if track[at] & 0x80:  # otherwise the last status runs on
            status, at = track[at], at + 1
        kind, channel = status >> 4, status & 0x0F
        if kind == 0xF:
            meta = track[at] if status == 0xFF else None
            length, at = _variable_length(track, at + (status == 0xFF))
            if meta == 0x51:
                yield _Event(tick, tempo=int.from_bytes(track[at : at + 3], "big"))
            at += length
            continue
        if kind in (0x8, 0x9) and channel != DRUM_CHANNEL:
            velocity = track[at + 1] if kind == 0x9 else 0
            yield _Event(tick, (number, channel), track[at], velocity)
        at += 1 if kind in (0xC, 0xD) else 2


def _notes(events: list[_Event], ticks_per_quarter: int) -> Iterator[tuple[tuple[int, int], Note]]:
    seconds, last_tick, tempo = 0.0, 0, DEFAULT_TEMPO
    held: dict[tuple[tuple[int, int], int], tuple[float, int]] = {}
    for event in events:
        seconds += (event.tick - last_tick) * tempo / 1e6 / ticks_per_quarter
        last_tick = event.tick
        if event.tempo:
            tempo = event.tempo
            continue
        key = (event.part, event.pitch)
        if key in held:
            start, velocity = held.pop(key)
            yield event.part, Note(start, seconds - start, event.pitch, velocity)
        if event.velocity:
            held[key] = (seconds, event.velocity)


def _number_parts(notes: list[tuple[tuple[int, int], Note]]) -> list[Note]:
    pitches: dict[tuple[int, int], list[int]] = {}
    for part, note in notes:
        pitches.setdefault(part, []).append(note.pitch)
    order = sorted(pitches, key=lambda part: -sum(pitches[part]) / len(pitches[part]))
    return sorted(Note(note.start, note.seconds, note.pitch, note.velocity, order.index(part)) for part, note in notes)
