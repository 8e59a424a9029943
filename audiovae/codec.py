"""Audio of any length to latents and back: level, chunks, channels, device. The whole way in one place."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from audiovae.audio import Audio, AudioFile, AudioWriter
from audiovae.checkpoint import Checkpoint, load_checkpoint
from audiovae.chunks import analysis_chunks, chunks, recording_level_db
from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.griffin_lim import griffin_lim
from audiovae.latents import Latents, count_latent_frames
from audiovae.level import ABSOLUTE_GATE_DB, LevelMeter
from audiovae.model.posterior import Posterior
from audiovae.model.prior import Prior
from audiovae.resampling import Resampler, exactly
from audiovae.spectrogram import Spectrogram, frame_power

BUNDLED_CHECKPOINT = Path(__file__).parent / "assets" / "bundled.safetensors"
ITERATIONS: dict[str, int] = {"draft": 2, "standard": 8, "best": 64}
"""Griffin-Lim iterations of each quality."""
DEVICES = ("auto", "cpu", "cuda")
CHUNK_LATENT_FRAMES = 256
"""Latent frames (24 s) encoded or decoded at a time: bounds the memory, changes nothing else."""
SYNTHESIS_FRAMES = 1024
"""Spectrogram frames (12 s) whose phase is reconstructed at a time."""
FRAMES_AHEAD, FRAMES_PAST = 32, 8
"""Of those, how many at the end are made again with what follows them, and how many before are kept for continuity."""
SILENT_BLOCK_SAMPLES = 1 << 20


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
        """p(z), fitted to the training latents."""
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
            _check_audio(recording)
        level_db, means, logvars = recording_level_db(recording, self.config), [], []
        context = self.checkpoint.model.context_latent_frames
        pieces = analysis_chunks(recording, level_db, self.config, size=CHUNK_LATENT_FRAMES, context=context)
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
            level_db=level_db,
            checkpoint=self.fingerprint,
        )

    def decode(self, latents: Latents, *, quality: str = "standard", seed: int = 0) -> Audio:
        """The recording again: its length to the sample, its channels, sample rate and level.

        Raises InputError if another model made the latents.
        """
        waveform = torch.cat(list(self.stream(latents, quality=quality, seed=seed)), dim=-1)
        return Audio(waveform, latents.sample_rate, source=latents.source)

    def stream(
        self, latents: Latents, *, quality: str = "standard", seed: int = 0
    ) -> Iterator[Float[Tensor, "channels block"]]:
        """What ``decode`` returns, in blocks of some 12 s and in bounded memory. Joined they are the same samples."""
        self._check(latents)
        if quality not in ITERATIONS:
            raise InputError(f"quality {quality}: must be one of {', '.join(ITERATIONS)}")
        model_rate = self.config.spectrogram.sample_rate
        if latents.level_db == -math.inf:
            blocks = _silence(latents.channels, latents.samples)
        else:
            spectrograms = self._decoded(latents.mean)
            gain = 10 ** ((latents.level_db - self._decoded_level_db(spectrograms())) / 20)
            blocks = (block * gain for block in self._waveform_blocks(spectrograms(), ITERATIONS[quality], seed))
            blocks = Resampler(model_rate, latents.sample_rate, channels=latents.channels).stream(blocks)
        return exactly(blocks, latents.samples)

    def save(
        self, latents: Latents, path: str | Path, *, quality: str = "standard", seed: int = 0, force: bool = False
    ) -> float:
        """Decodes straight into a file, in bounded memory; returns the gain in dB that kept it from clipping."""
        with AudioWriter(path, latents.sample_rate, latents.channels, force=force) as writer:
            for block in self.stream(latents, quality=quality, seed=seed):
                writer.write(block)
        return writer.gain_db

    def spectrogram_of(self, latents: Latents) -> Float[Tensor, "channels n_bands frames"]:
        """The decoder's spectrogram of a recording, at the level that the model works at; for pictures and measures."""
        return torch.cat(list(self._spectrogram_chunks(latents.mean)), dim=-1).cpu()

    def _check(self, latents: Latents) -> None:
        """Raises InputError, which names the latents, unless this model made them and can decode them."""
        if latents.checkpoint != self.fingerprint:
            raise InputError(
                f"{latents.source}: encoded by checkpoint {latents.checkpoint}, this one is {self.fingerprint} "
                f"({self.checkpoint.source})"
            )
        if latents.mean.shape[1] != self.config.model.latent_channels or latents.channels > 2:
            raise InputError(f"{latents.source}: latents of shape {list(latents.mean.shape)} are not this model's")
        frames = count_latent_frames(latents.samples, latents.sample_rate, self.config)
        if latents.latent_frames != frames:
            raise InputError(
                f"{latents.source}: {latents.samples} samples at {latents.sample_rate} Hz are {frames} latent frames, "
                f"but there are {latents.latent_frames}"
            )

    def _spectrogram_chunks(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"]
    ) -> Iterator[Float[Tensor, "channels n_bands frames"]]:
        model, stride = self.checkpoint.model, self.config.model.time_stride
        for first, last, keep in chunks(mean.shape[-1], CHUNK_LATENT_FRAMES, model.context_latent_frames):
            with torch.inference_mode():
                spectrogram = model.decode(mean[..., first:last].to(self.device, torch.float32))
            yield spectrogram[:, 0, :, keep.start * stride : keep.stop * stride]

    def _decoded(
        self, mean: Float[Tensor, "channels latent_channels latent_frames"]
    ) -> Callable[[], Iterator[Float[Tensor, "channels n_bands frames"]]]:
        """The decoder's spectrogram, as often as it is asked for: kept if it is short, decoded again if it is long."""
        if mean.shape[-1] > CHUNK_LATENT_FRAMES:
            return lambda: self._spectrogram_chunks(mean)
        kept = list(self._spectrogram_chunks(mean))
        return lambda: iter(kept)

    def _decoded_level_db(self, spectrograms: Iterator[Float[Tensor, "channels n_bands frames"]]) -> float:
        """Level of what the decoder made: it is near the model's, but a recording's level must be met."""
        meter, stride = LevelMeter(), self.config.model.time_stride
        for spectrogram in spectrograms:
            power = frame_power(self.spectrogram.magnitude(spectrogram))
            meter.add_powers(power.unflatten(0, (-1, stride)).mean(1).cpu())
        return max(meter.level_db, ABSOLUTE_GATE_DB)

    def _waveform_blocks(
        self, spectrograms: Iterator[Float[Tensor, "channels n_bands frames"]], iterations: int, seed: int
    ) -> Iterator[Float[Tensor, "channels samples"]]:
        """Reconstructs phase in blocks; each continues the waveform of the one before, so that there is no seam."""
        hop = self.config.spectrogram.hop_length
        past: Tensor | None = None
        for spectrogram, is_last in _regrouped(spectrograms, SYNTHESIS_FRAMES, FRAMES_PAST + FRAMES_AHEAD):
            if is_last:
                # Frames are centred on hops: up to a hop of the recording lies behind the last one.
                spectrogram = functional.pad(spectrogram, (0, 1), mode="replicate")
            magnitude = self.spectrogram.magnitude(spectrogram)
            waveform = griffin_lim(magnitude, hop_length=hop, iterations=iterations, past=past)
            known = 0 if past is None else past.shape[-1]
            # The last frames lack the neighbours that come after them: the next block makes them again.
            end = waveform.shape[-1] if is_last else (SYNTHESIS_FRAMES - FRAMES_AHEAD) * hop
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
    pieces: Iterator[Float[Tensor, "channels n_bands frames"]], size: int, overlap: int
) -> Iterator[tuple[Float[Tensor, "channels n_bands frames"], bool]]:
    """Blocks of ``size`` frames, each beginning with the last ``overlap`` of the one before, and which is the last."""
    waiting = next(pieces)
    for piece in pieces:
        while waiting.shape[-1] > size:
            yield waiting[..., :size], False
            waiting = waiting[..., size - overlap :]
        waiting = torch.cat([waiting, piece], dim=-1)
    while waiting.shape[-1] > size:
        yield waiting[..., :size], False
        waiting = waiting[..., size - overlap :]
    yield waiting, True


def _check_audio(audio: Audio) -> None:
    """What ``AudioFile`` refuses in files is refused in memory too."""
    name = audio.source or "audio"
    if not audio.samples:
        raise InputError(f"{name}: contains no samples")
    if audio.channels > 2:
        raise InputError(f"{name}: has {audio.channels} channels, only mono and stereo are supported")
    if not audio.waveform.isfinite().all():
        raise InputError(f"{name}: contains NaN or infinity")


def _silence(channels: int, samples: int) -> Iterator[Float[Tensor, "channels samples"]]:
    for start in range(0, samples, SILENT_BLOCK_SAMPLES):
        yield torch.zeros(channels, min(SILENT_BLOCK_SAMPLES, samples - start))
