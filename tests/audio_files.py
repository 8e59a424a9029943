"""Audio files as other programs write them, and what is said of those that are refused."""

import re
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from audiovae.audio import AudioFile

Sounds = dict[str, Callable[..., Tensor]]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SNR_DB = {".wav": 120, ".flac": 120, ".ogg": 30, ".mp3": 25}
"""24 bits give about 146 dB below full scale; the lossy coders aim at the ear, but tones they keep well."""


def foreign_file(path: Path, waveform: Tensor, **facts: str | int) -> Path:
    """A file that some other program wrote."""
    facts = {"samplerate": 44_100, "subtype": "PCM_16", "format": "WAV", **facts}
    soundfile.write(path, waveform.T.numpy(), **facts)
    return path


def cut(path: Path, fraction: float) -> Path:
    """Keeps the first part of a file's bytes."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def snr_db(got: Tensor, wanted: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (got - wanted).square().sum().clamp(min=1e-20)))


def joined(file: AudioFile, *, sample_rate: int, block_samples: int) -> Tensor:
    return torch.cat(list(file.blocks(sample_rate, block_samples)), dim=1)


def refusal(path: Path, reason: str) -> str:
    """A pattern for a message of one line that starts with the file's name and then says why."""
    return f"^{re.escape(str(path))}: {reason}[^\\n]*$"
