"""Audio of any length to latents and back: level, chunks, channels, device. The whole way in one place."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.audio import Audio, AudioFile, AudioWriter, refuse_shape
from audiovae.checkpoint import Checkpoint, load_checkpoint
from audiovae.chunks import analysis_chunks, chunks, measure
from audiovae.config import Config
from audiovae.decoded_level import crest_db_of, estimated_level_db, level_db_of
from audiovae.errors import InputError
from audiovae.griffin_lim import griffin_lim
from audiovae.latents import Latents, count_latent_frames
from audiovae.level import level_db
from audiovae.model.posterior import Posterior
from audiovae.model.prior import Prior
from audiovae.phase_refinement import Iterations
from audiovae.resampling import Resampler, exactly
from audiovae.spectrogram import Spectrogram

BUNDLED_CHECKPOINT = Path(__file__).parent / "assets" / "bundled.safetensors"
ITERATIONS = {
    "draft": Iterations(1, quarter=2, eighth=8),
    "standard": Iterations(1, quarter=4, eighth=16),
    "best": Iterations(16, quarter=64, eighth=128),
}
"""Griffin-Lim iterations of each quality."""
DEVICES = ("auto", "cpu", "cuda")
CHUNK_LATENT_FRAMES = 512
"""Latent frames (24 s) encoded or decoded at a time: bounds the memory, changes nothing else."""
BLOCK_SECONDS = 12.0
"""How much audio is made at a time."""
SHORTEST_BLOCK_SECONDS = 0.1
FRAMES_AHEAD, FRAMES_PAST = 32, 8
"""Spectrogram frames after a block, which are made again with the next one, and before it, kept for continuity."""
FIRST_LATENT_FRAMES = 128
"""Latent frames (6 s) decoded at a time for shorter blocks: a few would be mostly context."""
MEASURED_LATENT_FRAMES = 22
"""In so few, a second, much of what is decoded may lie beyond the sound's end: the waveform's level is measured."""


@dataclass(frozen=True)
class Codec:
    """A model on a device, ready to encode and decode recordings of any length."""

    checkpoint: Checkpoint
    device: torch.device
    spectrogram: Spectrogram

    @property
    def config(self) -> Config:
        """All settings of the model."""
        return self.checkpoint.config

    @property
    def prior(self) -> Prior:
        """p(z), learnt from the training latents."""
        return self.checkpoint.prior

    @property
    def fingerprint(self) -> str:
        """Which model this is; its latents carry it."""
        return self.checkpoint.fingerprint

    def encode(self, source: Audio | AudioFile | str | Path, *, generator: torch.Generator | None = None) -> Latents:
        """A recording's latents: the posterior's mean, or a sample of it if a generator is given.

        A file is read in blocks, twice (level first), so hours take no more memory than seconds. The generator
        must be the CPU's. Raises InputError that names the file if it can't be read or used.
        """
        recording = AudioFile(source) if isinstance(source, str | Path) else source
        if isinstance(recording, Audio):
            recording = _checked(recording)
        measured, means, logvars = measure(recording, self.config), [], []
        context = self.checkpoint.model.context_latent_frames
        pieces = analysis_chunks(recording, measured, self.config, size=CHUNK_LATENT_FRAMES, context=context)
        for waveform, keep in pieces:
            with torch.inference_mode():
                spectrogram = self.spectrogram(waveform[:, None].to(self.device), center=False)
                posterior = self.checkpoint.model.encode(spectrogram)
            means.append(posterior.mean[..., keep].cpu())
            logvars.append(posterior.logvar[..., keep].cpu())
        posterior = Posterior(torch.cat(means, dim=-1), torch.cat(logvars, dim=-1))
        return Latents(
            mean=posterior.mode() if generator is None else posterior.sample(generator),
            logvar=posterior.logvar,
            source=str(recording.path) if isinstance(recording, AudioFile) else recording.source,
            sample_rate=recording.sample_rate,
            samples=recording.samples,
            level_db=measured.level_db,
            checkpoint=self.fingerprint,
        )

    def decode(self, latents: Latents, *, quality: str = "standard") -> Audio:
        """The recording again: its length to the sample, its channels, sample rate and level.

        Raises InputError if another model made the latents.
        """
        waveform = torch.cat(list(self.stream(latents, quality=quality)), dim=-1)
        return Audio(waveform, latents.sample_rate, source=latents.source)

    def stream(
        self, latents: Latents, *, quality: str = "standard", block_seconds: float = BLOCK_SECONDS
    ) -> Iterator[Float[Tensor, "channels block"]]:
        """What ``decode`` returns, in blocks: the same samples, if the blocks have the default length.

        Memory and the time to the first block depend on ``block_seconds``, at least 0.1, not on the recording's
        length. Short blocks cost more, since each has to be made with half a second around it in all; their phases come
        out otherwise, as nobody knows them. Raises InputError if another model made the latents, or for a bad option.
        """
        self._check(latents)
        if quality not in ITERATIONS:
            raise InputError(f"quality {quality}: must be one of {', '.join(ITERATIONS)}")
        if not SHORTEST_BLOCK_SECONDS <= block_seconds < math.inf:
            raise InputError(f"block_seconds {block_seconds:g}: must be a number, at least {SHORTEST_BLOCK_SECONDS}")
        model_rate = self.config.spectrogram.sample_rate
        if latents.level_db == -math.inf:
            blocks = _silence(latents.channels, latents.samples, round(block_seconds * latents.sample_rate))
        else:
            frames = max(FRAMES_PAST, round(block_seconds * model_rate / self.config.spectrogram.hop_length))
            magnitudes, decoded_db = self._decoded(self.all_channels(latents.mean), frames)
            gain = 10 ** ((latents.level_db - decoded_db) / 20)
            blocks = self._waveform_blocks(_regrouped(magnitudes, frames), frames, ITERATIONS[quality])
            blocks = (block * gain for block in blocks)
            blocks = Resampler(model_rate, latents.sample_rate, channels=latents.channels).stream(blocks)
        blocks = exactly(blocks, latents.samples)
        is_measured = latents.latent_frames <= MEASURED_LATENT_FRAMES and latents.level_db > -math.inf
        return _levelled(blocks, latents) if is_measured else blocks

    def save(self, latents: Latents, path: str | Path, *, quality: str = "standard", force: bool = False) -> float:
        """Decodes straight into a file, in bounded memory; returns the gain in dB that kept it from clipping."""
        with AudioWriter(path, latents.sample_rate, latents.channels, force=force) as writer:
            for block in self.stream(latents, quality=quality):
                writer.write(block)
        return writer.gain_db

    def spectrogram_of(self, latents: Latents) -> Float[Tensor, "channels n_bands frames"]:
        """The decoder's spectrogram of a recording, at the level that the model works at; for pictures and measures."""
        return torch.cat(list(self.spectrogram_chunks(self.all_channels(latents.mean))), dim=-1).cpu()

    def spectrogram_chunks(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"], size: int = CHUNK_LATENT_FRAMES
    ) -> Iterator[Float[Tensor, "channels n_bands frames"]]:
        """The same in pieces of ``size`` latent frames, on the codec's device."""
        model, stride = self.checkpoint.model, self.config.model.time_stride
        for first, last, keep in chunks(mean.shape[-1], size, model.context_latent_frames):
            with torch.inference_mode():
                spectrogram = model.decode(mean[..., first:last].to(self.device, torch.float32))
            yield spectrogram[:, 0, :, keep.start * stride : keep.stop * stride]

    def decoded_level_db(self, latents: Latents) -> float:
        """Level in dBFS of what the decoder makes of latents, which ``decode`` brings to theirs; -70 for silence."""
        return self._decoded(self.all_channels(latents.mean), FRAMES_PAST)[1]

    def crest_db(self, latents: Latents) -> float:
        """By how many dB the loudest moment of what the decoder makes of latents lies above its level."""
        spectrograms = self.spectrogram_chunks(self.all_channels(latents.mean))
        return crest_db_of(map(self.spectrogram.magnitude, spectrograms), self.spectrogram)

    def all_channels(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"]
    ) -> Float[Tensor, "channels all_latent_channels latent_frames"]:
        """The mean, with 0, the components' centre, in place of the last channels if they weren't kept.

        Raises InputError if there are more than the model's.
        """
        if mean.shape[1] > self.config.model.latent_channels:
            raise InputError(f"latents of shape {list(mean.shape)} are not this model's ({self.checkpoint.source})")
        return functional.pad(mean, (0, 0, 0, self.config.model.latent_channels - mean.shape[1]))

    def _check(self, latents: Latents) -> None:
        """Raises InputError, which names the latents, unless this model made them and can decode them."""
        if latents.checkpoint != self.fingerprint:
            raise InputError(
                f"{latents.source}: encoded by checkpoint {latents.checkpoint}, this one is {self.fingerprint} "
                f"({self.checkpoint.source})"
            )
        if latents.mean.shape[1] > self.config.model.latent_channels or latents.channels > 2:
            raise InputError(f"{latents.source}: latents of shape {list(latents.mean.shape)} are not this model's")
        frames = count_latent_frames(latents.samples, latents.sample_rate, self.config)
        if latents.latent_frames != frames:
            raise InputError(
                f"{latents.source}: {latents.samples} samples at {latents.sample_rate} Hz are {frames} latent frames, "
                f"but there are {latents.latent_frames}"
            )

    def _decoded(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"], block_frames: int
    ) -> tuple[Iterator[Float[Tensor, "channels bins frames"]], float]:
        """The decoder's magnitudes in pieces, and their level, which must be known to restore the recording's.

        A short recording is decoded at once and measured. The level of a long one is estimated, so that it needn't be
        decoded from end to end before the first block.
        """
        if mean.shape[-1] <= CHUNK_LATENT_FRAMES:
            kept = [self.spectrogram.magnitude(piece) for piece in self.spectrogram_chunks(mean)]
            return iter(kept), level_db_of(kept, self.spectrogram)
        size = min(CHUNK_LATENT_FRAMES, max(FIRST_LATENT_FRAMES, -(-block_frames // self.config.model.time_stride)))
        level_db = estimated_level_db(mean, self.checkpoint.model, self.spectrogram)
        return map(self.spectrogram.magnitude, self.spectrogram_chunks(mean, size)), level_db

    def _waveform_blocks(
        self,
        magnitudes: Iterator[tuple[Float[Tensor, "channels bins frames"], bool]],
        block_frames: int,
        iterations: Iterations,
    ) -> Iterator[Float[Tensor, "channels samples"]]:
        """Reconstructs phase in blocks; each continues the waveform of the one before, so that there is no seam."""
        hop, bank = self.config.spectrogram.hop_length, self.spectrogram.bank
        past: Tensor | None = None
        for magnitude, is_last in magnitudes:
            if is_last:
                # Frames are centred on hops: up to a hop of the recording lies behind the last one.
                magnitude = functional.pad(magnitude, (0, 1), mode="replicate")
            waveform = griffin_lim(magnitude, hop_length=hop, iterations=iterations, past=past, bank=bank)
            known = 0 if past is None else past.shape[-1]
            # The last frames lack the neighbours that come after them: the next block makes them again.
            end = waveform.shape[-1] if is_last else known + block_frames * hop
            past = waveform[:, end - FRAMES_PAST * hop : end]
            yield waveform[:, known:end].cpu()


def load(path: str | Path | None = None, *, device: str = "auto") -> Codec:
    """Opens a checkpoint, by default the one in the package. Raises InputError that names what can't be used."""
    if device not in DEVICES:
        raise InputError(f"device {device}: must be one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch finds no CUDA device here")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    checkpoint = load_checkpoint(BUNDLED_CHECKPOINT if path is None else path)
    model = checkpoint.model.to(name).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue], torch forgot it
    spectrogram = Spectrogram(checkpoint.config.spectrogram).to(name)
    return Codec(replace(checkpoint, model=model), torch.device(name), spectrogram)


def _regrouped(
    pieces: Iterator[Float[Tensor, "channels bins frames"]], block_frames: int
) -> Iterator[tuple[Float[Tensor, "channels bins frames"], bool]]:
    """Blocks of so many frames, with those ahead and (except in the first) those past; and whether each is the last."""
    waiting, past = next(pieces), 0
    for piece in itertools.chain(pieces, [None]):
        while waiting.shape[-1] > (size := past + block_frames + FRAMES_AHEAD):
            yield waiting[..., :size], False
            waiting, past = waiting[..., size - FRAMES_AHEAD - FRAMES_PAST :], FRAMES_PAST
        if piece is not None:
            waiting = torch.cat([waiting, piece], dim=-1)
    yield waiting, True


def _checked(audio: Audio) -> Audio:
    """In float32, without a gradient. What ``AudioFile`` refuses in files is refused in memory too."""
    name = audio.source or "audio"
    refuse_shape(name, audio.sample_rate, audio.channels)
    if not audio.samples:
        raise InputError(f"{name}: contains no samples")
    waveform = audio.waveform.detach().to("cpu", torch.float32)
    if not waveform.isfinite().all():
        raise InputError(f"{name}: contains NaN or infinity")
    return replace(audio, waveform=waveform)


def _levelled(
    blocks: Iterator[Float[Tensor, "channels block"]], latents: Latents
) -> Iterator[Float[Tensor, "channels samples"]]:
    waveform = torch.cat(list(blocks), dim=-1)
    there_db = level_db(waveform, latents.sample_rate)
    yield waveform * (1 if there_db == -math.inf else 10 ** ((latents.level_db - there_db) / 20))


def _silence(channels: int, samples: int, block_samples: int) -> Iterator[Float[Tensor, "channels samples"]]:
    for start in range(0, samples, block_samples):
        yield torch.zeros(channels, min(block_samples, samples - start))
