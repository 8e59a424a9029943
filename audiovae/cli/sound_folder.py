"""The files of a folder of sounds: audio, a picture of all, and a JSON file that says what they are."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.audio import AudioFile, AudioWriter
from audiovae.cli.report import Advance, Report
from audiovae.codec import Codec
from audiovae.config import SpectrogramConfig
from audiovae.latents import Latents
from audiovae.plots import path_picture, shortened
from audiovae.spectrogram import magnitude_db

FADE_SECONDS = 0.005
"""At the ends of sounds in a row, and of new ones."""
PICTURE_FRAMES = 2000
"""Spectrogram frames that the longest sound keeps for the picture."""


@dataclass(frozen=True)
class Sound:
    """One file to be written."""

    name: str
    latents: Latents
    label: str = ""
    """Below its spectrogram."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the JSON file says of it besides what is measured."""


def write_sounds(
    codec: Codec,
    sounds: Sequence[Sound],
    folder: Path,
    *,
    picture: str,
    title: str,
    quality: str,
    advance: Advance,
    joined: str | None = None,
    faded: bool = False,
) -> list[dict[str, Any]]:
    """Writes the sounds and their picture; returns the facts and measures of each sound.

    With a name for ``joined``, whose facts come last, all sounds are in that file too, one after the other; they must
    have the same rate and channels. ``faded`` is for sounds without a beginning and an end of their own, which would
    click there.
    """
    longest = max(sounds, key=lambda sound: sound.latents.latent_frames).latents
    factor = max(1, longest.latent_frames * codec.config.model.time_stride // PICTURE_FRAMES)
    measured: list[dict[str, Any]] = []
    panels: list[Tensor] = []
    previous: Tensor | None = None
    with _Joined(folder / joined, sounds[0].latents) if joined else nullcontext() as row:
        for done, sound in enumerate(sounds, start=1):
            blocks = codec.stream(sound.latents, quality=quality)
            blocks = _faded(blocks, sound) if faded else blocks
            gain_db = _save(sound, folder, row.add(blocks) if row else blocks)
            spectrogram = codec.spectrogram_of(sound.latents)
            distance = None if previous is None else distance_db(previous, spectrogram, codec.config.spectrogram)
            facts = sound.facts | describe_file(sound.latents, folder / sound.name, gain_db)
            measured.append({"name": sound.name} | facts | {"distance_to_previous_db": distance})
            panels.append(shortened(spectrogram.mean(0), factor))
            previous = spectrogram
            advance(done, len(sounds))
    labels, config = [sound.label for sound in sounds], codec.config.spectrogram
    path_picture(panels, labels, folder / picture, config=config, title=title, seconds=longest.duration_seconds)
    return [*measured, row.facts()] if row else measured


class _Fade:
    """Fades a sound that comes in blocks in and out, within 5 ms each."""

    def __init__(self, sample_rate: int) -> None:
        size = round(FADE_SECONDS * sample_rate)
        self.shape = 0.5 - 0.5 * torch.cos(torch.pi * torch.arange(size) / size)
        self.held: Tensor | None = None
        """What may be the end."""
        self.has_begun = False

    def push(self, block: Float[Tensor, "channels block"]) -> Float[Tensor, "channels _"]:
        """What can be told so far."""
        held, size = block.clone() if self.held is None else torch.cat([self.held, block], dim=1), len(self.shape)
        if not self.has_begun and held.shape[1] >= size:
            held[:, :size] *= self.shape
            self.has_begun = True
        ready = held.shape[1] - size if self.has_begun else 0
        self.held = held[:, ready:]
        return held[:, :ready]

    def finish(self) -> Float[Tensor, "channels _"]:
        """The end; of a sound shorter than a fade, which only fades out, all."""
        assert self.held is not None
        return self.held * self.shape.flip(0)[-self.held.shape[1] :]


def _faded(blocks: Iterable[Float[Tensor, "channels block"]], sound: Sound) -> Iterator[Float[Tensor, "channels _"]]:
    fade = _Fade(sound.latents.sample_rate)
    yield from map(fade.push, blocks)
    yield fade.finish()


class _Joined:
    """Sounds in a row in one file, each faded in and out, so that nothing clicks where they meet."""

    def __init__(self, path: Path, like: Latents) -> None:
        self.path, self.sample_rate = path, like.sample_rate
        self.writer = AudioWriter(path, like.sample_rate, like.channels)

    def __enter__(self) -> "_Joined":
        self.writer.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.__exit__(*error)

    def add(self, blocks: Iterable[Float[Tensor, "channels block"]]) -> Iterator[Float[Tensor, "channels block"]]:
        """Passes a sound's blocks on as they are, and writes them."""
        fade = _Fade(self.sample_rate)
        for block in blocks:
            yield block
            self.writer.write(fade.push(block))
        self.writer.write(fade.finish())

    def facts(self) -> dict[str, Any]:
        """Of the whole file, once it is written."""
        file = AudioFile(self.path)
        duration = {"duration_seconds": file.samples / file.sample_rate, "gain_db": self.writer.gain_db}
        shape = {"sample_rate": file.sample_rate, "samples": file.samples, "channels": file.channels}
        return {"name": self.path.name} | shape | duration


def _save(sound: Sound, folder: Path, blocks: Iterable[Float[Tensor, "channels block"]]) -> float:
    """Writes one sound; returns the gain in dB that kept it from clipping."""
    with AudioWriter(folder / sound.name, sound.latents.sample_rate, sound.latents.channels) as writer:
        for block in blocks:
            writer.write(block)
    return writer.gain_db


def distance_db(
    a: Float[Tensor, "channels n_bands frames_a"],
    b: Float[Tensor, "channels n_bands frames_b"],
    config: SpectrogramConfig,
) -> float:
    """RMS difference of two normalised spectrograms in dB, the shorter one stretched to the longer one's frames.

    What is below the front end's floor counts as the floor. Equal distances along a path make it sound even.
    """
    frames = max(a.shape[-1], b.shape[-1])
    levels = [torch.nn.functional.interpolate(magnitude_db(one, config), size=frames, mode="linear") for one in (a, b)]
    return float((levels[0] - levels[1]).square().mean().sqrt())


def describe(latents: Latents) -> dict[str, Any]:
    """Length, rate, channels and level of a recording."""
    return {
        "sample_rate": latents.sample_rate,
        "samples": latents.samples,
        "channels": latents.channels,
        "duration_seconds": latents.duration_seconds,
        "level_db": latents.level_db,
    }


def describe_file(latents: Latents, path: Path, gain_db: float) -> dict[str, Any]:
    """What was written: MP3 may have another rate than the latents, and so another number of samples."""
    file = AudioFile(path)
    return describe(latents) | {"sample_rate": file.sample_rate, "samples": file.samples, "gain_db": gain_db}


def describe_input(latents: Latents) -> dict[str, Any]:
    """A recording that went in."""
    return {"path": latents.source} | describe(latents)


def describe_codec(codec: Codec) -> dict[str, Any]:
    """What made the sounds."""
    from audiovae import __version__

    return {
        "version": __version__,
        "checkpoint": {"fingerprint": codec.fingerprint, "file": codec.checkpoint.source},
        "device": codec.device.type,
    }


def say_gains(report: Report, files: Sequence[dict[str, Any]]) -> None:
    """Tells which files were turned down, so that nobody wonders about their level."""
    for file in files:
        if file["gain_db"]:
            report.say(f"{file['name']}: turned down by {-file['gain_db']:.1f} dB, so that it doesn't clip")
