"""A recording made ready for the model, by a process that has none: decoded, checked, levelled, cut in pieces."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from audiovae.audio import Audio, AudioFile
from audiovae.chunks import analysis_chunks, measure
from audiovae.config import Config
from audiovae.encoding import remote
from audiovae.encoding.inputs import Member, Recording
from audiovae.errors import InputError
from audiovae.latent_dataset.schema import text_name

IN_MEMORY_SAMPLES = 1 << 25
"""A recording of no more samples (6 min of stereo) is decoded once and kept; a longer one is decoded twice."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Analysis:
    """What the pieces of a recording depend on besides the recording."""

    config: Config
    context_latent_frames: int
    piece_latent_frames: int

    @property
    def longest_piece(self) -> int:
        """Latent frames that a piece has at most, with its context."""
        return self.piece_latent_frames + 2 * self.context_latent_frames


@dataclass(frozen=True, eq=False)
class Piece:
    """Waveform with all that its latent frames depend on, and which of them are its own."""

    waveform: Float[Tensor, "channels samples"]
    first: int
    last: int


@dataclass(frozen=True)
class RecordingFacts:
    """What comes after a recording's last piece. With an ``error``, its pieces are worth nothing."""

    error: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    sample_rate: int | None = None
    samples: int | None = None
    level_db: float | None = None


def prepare(recording: Recording, analysis: Analysis) -> Iterator[Piece | RecordingFacts]:
    """The pieces of a recording in bounded memory, and then its facts. Whatever goes wrong is told by the facts."""
    looks: tuple[int, int] | tuple[None, None] = None, None
    path: Path | None = None
    try:
        looks = look_at(recording)
        with _as_file(recording) as path:
            sha256 = _sha256(path)
            audio = _in_memory(AudioFile(path))
            measured = measure(audio, analysis.config)
            size, context = analysis.piece_latent_frames, analysis.context_latent_frames
            for waveform, keep in analysis_chunks(audio, measured, analysis.config, size=size, context=context):
                yield Piece(waveform, keep.start, keep.stop)
        if look_at(recording) != looks:
            raise InputError("changed while it was read")
        yield RecordingFacts(None, *looks, sha256, audio.sample_rate, audio.samples, measured.level_db)
    except Exception as error:  # whatever a file can cause is a row, not the end of a night's run
        yield RecordingFacts(_reason(error, path), *looks)


def look_at(recording: Recording) -> tuple[int, int]:
    """Size in bytes, and time of the last change in ns, of a recording's file, member or object. Raises OSError."""
    if recording.uri is not None:
        return remote.look_at(recording.uri)
    member = recording.member
    status = os.stat(recording.path if member is None else member.archive)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("is not a file")
    if member is None:
        return status.st_size, status.st_mtime_ns
    if member.offset + member.size > status.st_size:
        raise InputError("its archive is cut off")
    return member.size, member.mtime_ns


def checksum(recording: Recording) -> str | None:
    """SHA-256 of a recording's bytes; None if they can't be read."""
    try:
        with _as_file(recording) as path:
            return _sha256(path)
    except OSError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _as_file(recording: Recording) -> Iterator[Path]:
    """The file, or a temporary copy of a member or object: libsndfile wants a file of its own."""
    if recording.member is None and recording.uri is None:
        yield recording.path
        return
    with tempfile.TemporaryDirectory(prefix="audiovae-") as folder:
        copy = Path(folder, "recording").with_suffix(Path(text_name(recording.source)).suffix)
        if recording.uri is not None:
            remote.fetch(recording.uri, copy)
        elif recording.member is not None:
            _extract(recording.member, copy)
        yield copy


def _extract(member: Member, target: Path) -> None:
    with open(member.archive, "rb") as archive, target.open("wb") as file:
        archive.seek(member.offset)
        remaining = member.size
        while remaining and (data := archive.read(min(remaining, _BLOCK_BYTES))):
            file.write(data)
            remaining -= len(data)


def _in_memory(file: AudioFile) -> Audio | AudioFile:
    """The recording, decoded if it is short, to be read again if it is long."""
    blocks = file.blocks(file.sample_rate, IN_MEMORY_SAMPLES // file.channels)
    waveform = next(blocks)
    return file if next(blocks, None) is not None else Audio(waveform, file.sample_rate)


def _reason(error: Exception, path: Path | None) -> str:
    """One line without the path, which the row says already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).removeprefix(f"{path}: ").split())
    return text if isinstance(error, InputError) and text else f"{type(error).__name__}: {text}"
