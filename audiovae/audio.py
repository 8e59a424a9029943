"""Audio files in and out: soundfile decodes and encodes, soxr resamples, tensors come out.

`Audio` is one recording in memory; `AudioFile` and `AudioWriter` pass recordings of hours through, block by block.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.errors import InputError
from audiovae.forward_file import Forward, name_to_open, quiet_mp3
from audiovae.resampling import Resampler, regroup
from audiovae.whole_file import refuse_taken, temporary_folder

SAMPLE_RATES = (8_000, 192_000)  # Hz; lowest and highest that is read or written
CODINGS = {".wav": "PCM_24", ".flac": "PCM_24", ".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}  # of written files
MP3_SAMPLE_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz; it knows no others
SAFE_PEAK = 0.99  # where the peak of too loud a sound goes: lossy coding may add a little, so not 1

_LOSSY_RISK = 0.5  # peak from which on a file is decoded again, since lossy coding might have raised it above 1
_LOSSY_LEVEL = 0.2  # libsndfile's scale from 0, the best: Vorbis quality 8, LAME V2, where few ears hear a change
_PATH_BYTES = 960  # libsndfile takes 1023, and a temporary folder's name is added
_BLOCK = 16_384  # samples decoded or encoded at once; libsndfile crashes on very long single writes of Vorbis
_WAV_BYTES = 4_000_000_000  # a little under what a WAV's 32-bit size field can say; more is written as RF64
_STREAMED = 0x7FFF_F000  # from here on, the size in a WAV header is what programs write when they can't know it
_CUT_OFF = re.compile(  # libsndfile says only in its log that a WAV, AIFF, AU or RF64 ends before its header says so
    r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be|not match value from 'ds64' chunk of ([1-9]\d*)", re.MULTILINE
)


@dataclass(frozen=True, eq=False)
class Audio:
    """One recording in memory, with its sample rate and where it came from."""

    waveform: Float[Tensor, "channels samples"]  # float32; full scale is -1 to 1, values beyond it are kept
    sample_rate: int  # Hz
    source: str = ""  # the path as given, for provenance

    @property
    def channels(self) -> int:
        """1 for mono, 2 for stereo."""
        return self.waveform.shape[0]

    @property
    def samples(self) -> int:
        """Samples of each channel."""
        return self.waveform.shape[1]

    @property
    def duration_seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate

    @classmethod
    def load(cls, path: str | Path) -> "Audio":
        """Reads a whole file; raises InputError like `AudioFile`, which reads the same samples piece by piece."""
        file = AudioFile(path)
        return cls(torch.cat(list(file.blocks(file.sample_rate, _BLOCK)), dim=1), file.sample_rate, source=str(path))

    def resample(self, sample_rate: int, *, samples: int | None = None) -> "Audio":
        """The recording at another rate in Hz (soxr HQ), `resampled_length` samples long.

        `samples` sets another exact length instead: the end is trimmed, or padded with zeros.
        """
        waveform = self.waveform
        if sample_rate != self.sample_rate:
            resampler = Resampler(self.sample_rate, sample_rate, channels=self.channels)
            waveform = torch.cat([resampler.push(waveform.float()), resampler.finish()], dim=1)
        if samples is not None:
            waveform = torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[1])))[:, :samples]
        return replace(self, waveform=waveform, sample_rate=sample_rate)

    def blocks(self, sample_rate: int, block_samples: int) -> Iterator[Float[Tensor, "channels block"]]:
        """What `AudioFile.blocks` gives of a file: the recording at another rate, piece by piece."""
        return iter(self.resample(sample_rate).waveform.split(block_samples, dim=1))

    def save(self, path: str | Path, *, force: bool = False) -> float:
        """Writes a file and returns the gain in dB that kept it from clipping; `AudioWriter` says the details."""
        with AudioWriter(path, self.sample_rate, self.channels, force=force) as writer:
            writer.write(self.waveform)
        return writer.gain_db


class AudioFile:
    """A file that was looked at, not loaded: its facts, and its samples as a stream.

    Reads what libsndfile reads (WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF and more), mono or stereo, 8 to 192 kHz.
    Raises InputError if it can't be used: when opened (no audio, no samples, more than two channels, a WAV or AIFF
    shorter than its header says) or while it is read (a damaged or cut FLAC, NaN or infinity in floats).

    MP3 and Ogg may be cut by design (recorded streams): what is there counts as the whole. libsndfile guesses the
    length of an MP3 without the usual Xing header, so that one of variable bit rate may lose its end.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        suffix = self.path.suffix[1:].upper()
        with _reading(self.path), quiet_mp3(suffix), soundfile.SoundFile(name_to_open(self.path)) as file:
            _refuse_unusable(self.path, file)
            self.sample_rate, self.channels, self._declared = file.samplerate, file.channels, file.frames
            self._exact = file.subtype != CODINGS[".mp3"] and file.frames < np.iinfo(np.int64).max

    @cached_property
    def samples(self) -> int:
        """Samples of each channel; decoded once to count them where no header says (MP3, FLAC from a pipe)."""
        return self._declared if self._exact else sum(piece.shape[1] for piece in self._decode())

    def blocks(self, sample_rate: int, block_samples: int) -> Iterator[Float[Tensor, "channels block"]]:
        """The recording at `sample_rate`, in blocks of `block_samples`; only the last may be shorter.

        Joined they are exactly `Audio.load(path).resample(sample_rate).waveform`.
        """
        resampler = Resampler(self.sample_rate, sample_rate, channels=self.channels)
        return regroup(resampler.stream(self._decode()), block_samples)

    def _decode(self) -> Iterator[Float[Tensor, "channels block"]]:
        count, complete = 0, False
        with suppress(soundfile.LibsndfileError), Forward(self.path) as file:
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    raise InputError(f"{self.path}: contains NaN or infinity")
                count += len(block)
                yield torch.from_numpy(np.ascontiguousarray(block.T))  # torch takes 20 times as long for it
            complete = count >= (self._declared if self._exact else 1)
        if not complete:
            raise InputError(f"{self.path}: damaged or cut off: it can't be read beyond about {count} samples")


class AudioWriter:
    """Writes a recording block by block; the file appears complete when the `with` block ends, or not at all.

    The suffix sets the format: .wav and .flac (24-bit), .ogg (Vorbis), .mp3 (variable bit rate). All four give back
    the same number of samples, MP3 too, as its header tells decoders what the encoder added. MP3 knows nine sample
    rates: any other becomes the next higher of them, above 48 kHz 44.1 kHz for its multiples and 48 kHz for others.

    Nothing clips: if the peak is above full scale, or what a lossy file decodes to is, the whole recording is turned
    down to a peak of `SAFE_PEAK`, and `gain_db` (0.0 if untouched) tells by how much. The peak is only known at the
    end, so the blocks wait as 32-bit floats in a temporary folder next to the target.

    Raises InputError like `check_target`, or if the disk refuses.
    """

    def __init__(self, path: str | Path, sample_rate: int, channels: int, *, force: bool = False) -> None:
        self.path, self.gain_db, self._force = Path(path), 0.0, force
        check_target(self.path, force=force)
        refuse_shape(self.path, sample_rate, channels)
        self._suffix, self._channels, self._peak = self.path.suffix.lower(), channels, 0.0
        self._rate = mp3_sample_rate(sample_rate) if self._suffix == ".mp3" else sample_rate
        # FLAC's header counts Hz in 16 bits, or tens of Hz.
        if self._suffix == ".flac" and sample_rate > 65_535 and sample_rate % 10:
            raise InputError(f"{path}: FLAC can't hold a sample rate of {sample_rate} Hz; WAV can")
        self._resampler = Resampler(sample_rate, self._rate, channels=channels)
        self._open = partial(soundfile.SoundFile, mode="w", samplerate=self._rate, channels=channels)

    def __enter__(self) -> "AudioWriter":
        with _writing(self.path), ExitStack() as stack:
            self._folder = stack.enter_context(temporary_folder(self.path.parent))
            self._floats = stack.enter_context(
                self._open(name_to_open(self._folder / "floats"), subtype="FLOAT", format="RF64")
            )
            self._clean_up = stack.pop_all()
        return self

    def write(self, waveform: Float[Tensor, "channels block"]) -> None:
        """Adds a block of any length; InputError if it contains NaN or infinity."""
        if waveform.shape[0] != self._channels:
            raise ValueError(f"a block of {waveform.shape[0]} channels for a file of {self._channels}")
        if not waveform.isfinite().all():
            raise InputError(f"{self.path}: not written, the sound contains NaN or infinity")
        with _writing(self.path):
            self._keep(self._resampler.push(waveform.detach().to("cpu", torch.float32)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _writing(self.path), self._clean_up:
            if kind is None:
                self._keep(self._resampler.finish())
                self._floats.close()
                self._encode(self._folder / "encoded")

    def _keep(self, block: Float[Tensor, "channels block"]) -> None:
        if block.shape[1]:
            self._peak = max(self._peak, float(block.abs().max()))
            self._floats.write(block.T.numpy())

    def _encode(self, target: Path) -> None:
        if self._floats.frames == 0:
            raise InputError(f"{self.path}: not written, the sound has no samples")
        is_long_wav = self._suffix == ".wav" and self._floats.frames * self._channels * 3 > _WAV_BYTES
        container, coding = ("RF64" if is_long_wav else self._suffix[1:]), CODINGS[self._suffix]
        is_lossy = self._suffix in (".ogg", ".mp3")
        level = _LOSSY_LEVEL if is_lossy else None
        gain = SAFE_PEAK / self._peak if self._peak > 1 else 1.0
        while True:
            with self._open(name_to_open(target), subtype=coding, format=container, compression_level=level) as file:
                for block in AudioFile(self._folder / "floats").blocks(self._rate, _BLOCK):
                    file.write((block * gain).T.numpy())
            if not is_lossy or gain * self._peak < _LOSSY_RISK or (peak := _peak_of(target)) <= 1:
                break
            gain *= SAFE_PEAK / peak  # what a player would clip: coded once more, softer
        check_target(self.path, force=self._force)  # another process may have been faster
        os.replace(target, self.path)
        self.gain_db = 20 * math.log10(gain)


def check_target(path: str | Path, *, force: bool = False) -> None:
    """Raises InputError if an audio file can't go there, so that a long computation may ask first."""
    path = Path(path)
    _refuse_long(path)
    if path.suffix.lower() not in CODINGS:
        raise InputError(f"{path}: can't write this format, use one of {', '.join(CODINGS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    refuse_taken(path, force=force)


def _peak_of(path: Path) -> float:
    """Largest value that decoding gives, which of lossy files may be above 1."""
    file = AudioFile(path)
    return max(float(block.abs().max()) for block in file.blocks(file.sample_rate, _BLOCK))


def mp3_sample_rate(sample_rate: int) -> int:
    """The rate in Hz, of those that MP3 knows, in which a recording of this one keeps all it can."""
    above_all = 44_100 if sample_rate % 44_100 == 0 else 48_000
    return min((rate for rate in MP3_SAMPLE_RATES if rate >= sample_rate), default=above_all)


def _refuse_long(path: Path) -> None:
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise InputError(f"{path}: the path is longer than the {_PATH_BYTES} bytes that libsndfile can take")


def refuse_shape(path: str | Path, sample_rate: int, channels: int) -> None:
    """Raises InputError for a sample rate or channels that a recording of this name can't have."""
    if not SAMPLE_RATES[0] <= sample_rate <= SAMPLE_RATES[1]:
        raise InputError(f"{path}: sample rate {sample_rate} Hz is outside {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz")
    if channels not in (1, 2):
        raise InputError(f"{path}: has {channels} channels, only mono and stereo are supported")


def _refuse_unusable(path: Path, file: soundfile.SoundFile) -> None:
    if file.format == "RAW":  # libsndfile takes any file with a telephony suffix (.vox, .gsm) for headerless audio
        raise InputError(f"{path}: not audio, or headerless audio: convert it to WAV first")
    refuse_shape(path, file.samplerate, file.channels)
    if file.frames == 0:
        raise InputError(f"{path}: contains no samples")
    if (cut_off := _CUT_OFF.search(file.extra_info)) and int(cut_off[1] or cut_off[2]) < _STREAMED:
        raise InputError(f"{path}: cut off: it ends after {file.frames} samples, its header promises more")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file")
        _refuse_long(path)
        open(path, "rb").close()  # for the system's words on a missing or locked file; libsndfile: "System error"
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (soundfile.LibsndfileError, TypeError):  # soundfile's TypeError: .raw needs facts that nobody gave
        raise InputError(f"{path}: damaged or not audio (WAV, FLAC, Ogg, Opus, MP3 and AIFF can be read)") from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from None
    except soundfile.LibsndfileError as error:
        raise InputError(f"{path}: can't be written: {error.error_string} Is the disk full?") from None
