"""What was measured of one clip, and its file: an evaluation that was stopped goes on where it was."""

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from audiovae.audio import Audio, mp3_sample_rate
from audiovae.codec import Codec
from audiovae.errors import InputError
from audiovae.evaluation.ceilings import through_true_bands, through_true_magnitudes
from audiovae.evaluation.clips import Clip, load_clip
from audiovae.evaluation.frechet import mfcc_features
from audiovae.evaluation.musicnn import embed, why_not_musicnn
from audiovae.evaluation.perceptual import why_not_zimtohrli, zimtohrli_mos
from audiovae.evaluation.reconstruction import (
    log_mel_error_db,
    log_spectral_distance_db,
    multi_resolution_distance,
    short_window_distance_db,
    spectral_convergence_db,
)
from audiovae.json_text import to_json
from audiovae.latents import Latents
from audiovae.plots import draw_spectrograms
from audiovae.tensor_file import read_tensors, with_prefix, write_tensors

MP3_LEVEL = 0.5
"""libsndfile's scale from 0, the best, to 1."""
PICTURE_COLOURS = 128
"""Enough for a picture of levels; with all colours a page of ten clips would be twice as large."""
TARGET, TRUE_BANDS, TRUE_MAGNITUDES = "target", "true bands", "true magnitudes"


@dataclass(frozen=True, eq=False)
class Record:
    """The measures of a clip, and the tensors that summaries over clips need."""

    clip: Clip
    measures: dict[str, dict[str, float]]
    """By way through the system (a model's name or a ceiling), by measure."""
    tensors: dict[str, Tensor]
    latents: dict[str, Latents]
    """By model."""

    def embedding(self, way: str) -> Float[Tensor, "windows size"] | None:
        """MusiCNN's windows of the sound, None where it isn't installed."""
        return self.tensors.get(f"embedding.{way}")

    @property
    def features(self) -> Float[Tensor, "seconds features"]:
        """MFCC features of the target's true bands, which a decoder's spectrogram is compared with."""
        return self.tensors["features"]

    @property
    def picture(self) -> bytes | None:
        """PNG of the spectrograms, where the clip is shown."""
        return self.tensors["picture"].numpy().tobytes() if "picture" in self.tensors else None

    @property
    def sounds(self) -> dict[str, bytes]:
        """MP3 by way, where the clip is shown."""
        return {way: data.numpy().tobytes() for way, data in with_prefix(self.tensors, "mp3.").items()}


class RecordRefused(InputError):
    """The disk is to blame, not the clip."""


def record_clip(
    clip: Clip, codecs: Mapping[str, Codec], folder: Path, *, quality: str, shown: bool, force: bool
) -> Record:
    """Measures a clip, or reads what an earlier run measured with the same models, quality and packages.

    Raises InputError if the clip can't be used, and RecordRefused if the record can't be written.
    """
    path = folder / f"{_key(clip, codecs, quality, shown)}.safetensors"
    if path.exists() and not force:
        try:
            return _read(path, clip, codecs)
        except (InputError, LookupError, TypeError, AttributeError, ValueError):
            pass  # damaged: it is measured again
    measures, tensors = _measure(clip, codecs, quality, shown)
    header = {"clip": os.fsencode(clip.path).decode(errors="backslashreplace"), "measures": to_json(measures)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, header, force=True)
    except OSError as error:
        raise RecordRefused(f"{folder}: can't be made: {error.strerror}") from error
    except InputError as error:
        raise RecordRefused(str(error)) from error
    return _read(path, clip, codecs)


def _key(clip: Clip, codecs: Mapping[str, Codec], quality: str, shown: bool) -> str:
    """A hash of all that a record depends on, this package's code and the kind of device included."""
    try:
        facts = clip.path.stat()
    except OSError as error:
        raise InputError(f"{clip.path}: {error.strerror}") from error
    models = {name: [codec.fingerprint, codec.device.type] for name, codec in codecs.items()}
    packages = [why_not_zimtohrli() is None, why_not_musicnn() is None, torch.__version__, _code()]
    text = json.dumps([str(clip.path.absolute()), facts.st_size, facts.st_mtime_ns, models, quality, shown, packages])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


@cache
def _code() -> str:
    """A hash of the modules that analysis, synthesis and measures are made of."""
    package = Path(__file__).parents[1]
    modules = sorted(path for folder in (".", "model", "evaluation") for path in (package / folder).glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _measure(
    clip: Clip, codecs: Mapping[str, Codec], quality: str, shown: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    codec = next(iter(codecs.values()))
    config = codec.config.spectrogram
    target = load_clip(clip, codec)
    tensors: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for name, one in codecs.items():
        latents = one.encode(target)
        assert latents.logvar is not None, "an encoder made it"
        tensors |= {f"mean.{name}": latents.mean, f"logvar.{name}": latents.logvar}
        outputs[name] = one.decode(latents, quality=quality).waveform
    outputs[TRUE_BANDS] = through_true_bands(codec, target.waveform, quality=quality)
    outputs[TRUE_MAGNITUDES] = through_true_magnitudes(codec, target.waveform, quality=quality)
    tensors["features"] = _features(codec, target)
    tensors["samples"] = torch.tensor(target.samples)
    sounds = {TARGET: target.waveform} | outputs
    if why_not_musicnn() is None:
        tensors |= {f"embedding.{way}": embed(sound, config.sample_rate) for way, sound in sounds.items()}
    if shown:
        tensors["picture"] = _picture(codec, sounds)
        tensors |= {f"mp3.{way}": _mp3(sound, config.sample_rate) for way, sound in sounds.items()}
    return {way: _compare(target.waveform, output, config.sample_rate) for way, output in outputs.items()}, tensors


def _compare(
    target: Float[Tensor, "1 samples"], output: Float[Tensor, "1 samples"], sample_rate: int
) -> dict[str, float]:
    measures = {
        "log_mel_error_db": log_mel_error_db(target, output, sample_rate),
        "spectral_convergence_db": spectral_convergence_db(target, output),
        "log_spectral_distance_db": log_spectral_distance_db(target, output),
        "short_window_distance_db": short_window_distance_db(target, output),
        "multi_resolution_distance": multi_resolution_distance(target, output),
    }
    if why_not_zimtohrli() is None:
        measures["zimtohrli_mos"] = zimtohrli_mos(target, output, sample_rate)
    return measures


def _features(codec: Codec, target: Audio) -> Float[Tensor, "seconds features"]:
    config = codec.config.spectrogram
    bands = codec.spectrogram(target.waveform[None].to(codec.device))[0]
    magnitude = codec.spectrogram.magnitude(bands)[0].cpu()
    return mfcc_features(magnitude, sample_rate=config.sample_rate, hop_length=config.hop_length)


def _picture(codec: Codec, sounds: Mapping[str, Float[Tensor, "1 samples"]]) -> UInt8[Tensor, " bytes"]:
    spectrograms = [codec.spectrogram(sound[None].to(codec.device))[0, 0].cpu() for sound in sounds.values()]
    png = io.BytesIO()
    picture = draw_spectrograms(spectrograms, list(sounds), config=codec.config.spectrogram)
    picture.quantize(PICTURE_COLOURS, method=Image.Quantize.MAXCOVERAGE).save(png, format="PNG")
    return _as_tensor(png)


def _mp3(waveform: Float[Tensor, "1 samples"], sample_rate: int) -> UInt8[Tensor, " bytes"]:
    """Compressed, so that a page can hold it; MP3 is what every browser plays."""
    mp3, rate = io.BytesIO(), mp3_sample_rate(sample_rate)
    sound = Audio(waveform, sample_rate).resample(rate).waveform[0].clamp(-0.99, 0.99).numpy()
    soundfile.write(mp3, sound, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=MP3_LEVEL)
    return _as_tensor(mp3)


def _as_tensor(data: io.BytesIO) -> UInt8[Tensor, " bytes"]:
    return torch.from_numpy(np.frombuffer(data.getvalue(), np.uint8).copy())


def _read(path: Path, clip: Clip, codecs: Mapping[str, Codec]) -> Record:
    tensors, header = read_tensors(path, kind="record of an evaluation")
    first = next(iter(codecs.values())).config.spectrogram
    latents = {
        name: Latents(
            mean=tensors[f"mean.{name}"],
            logvar=tensors[f"logvar.{name}"],
            source=clip.name,
            sample_rate=first.sample_rate,
            samples=int(tensors["samples"]),
            level_db=first.level_db,
            checkpoint=codec.fingerprint,
        )
        for name, codec in codecs.items()
    }
    measures = {
        way: {name: math.nan if value is None else float(value) for name, value in found.items()}
        for way, found in json.loads(header["measures"]).items()
    }
    return Record(clip, measures, tensors, latents)
