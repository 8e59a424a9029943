"""The averaged weights on held-out segments: measures, and examples for TensorBoard."""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from audiovae.griffin_lim import griffin_lim
from audiovae.model.posterior import ACTIVE_VARIANCE
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram, mean_error_db
from audiovae.training.data import Cache
from audiovae.training.encoded import encode_segments
from audiovae.training.log import RunLog
from audiovae.training.losses import mel_error_db
from audiovae.training.segments import Segments

SEGMENTS = 64
EXAMPLES, EXAMPLE_ITERATIONS = 4, 16
"""Sounds shown in TensorBoard, and Griffin-Lim's iterations for them."""
COLLAPSED_SHARE = 0.25


@dataclass(frozen=True)
class Validation:
    """Figures on held-out segments."""

    error_db: float
    """Mean absolute error of the bands in dB."""
    mel_error_db: float
    """The same of mels, which are about as wide as what is heard."""
    kl: float
    """Nats a latent frame; 0 for a plain autoencoder."""
    channel_kl: tuple[float, ...]
    """The same for each channel; empty for a plain autoencoder."""
    active_units: int
    """Channels whose mean varies over the data."""
    channels: int
    """Channels there are."""
    held_out: bool
    """False where the folder is too small to hold anything out."""

    @property
    def collapsed(self) -> bool:
        """Whether so few channels are active that the decoder ignores most of its latents. Only a KL makes it so."""
        return bool(self.channel_kl) and self.active_units < COLLAPSED_SHARE * self.channels

    @property
    def in_collapse(self) -> str:
        """What to say and to do then."""
        return (
            f"only {self.active_units} of {self.channels} latent channels are active, the posterior is collapsing: "
            "lower training.beta, or raise training.free_bits"
        )


def measured(vae: VAE, spectrogram: Spectrogram, cache: Cache, log: RunLog, *, step: int) -> Validation:
    """Validates, and logs the figures."""
    validation = validate(vae, spectrogram, cache, log.board, step=step)
    names = ("error_db", "mel_error_db", "active_units", "kl")
    curves = {f"validation/{name}": float(getattr(validation, name)) for name in names}
    log.write(step, {"validation": asdict(validation) | {"collapsed": validation.collapsed}}, curves=curves)
    log.board.flush()
    return validation


def validate(vae: VAE, spectrogram: Spectrogram, cache: Cache, board: SummaryWriter, *, step: int) -> Validation:
    """Measures on the same held-out segments every time, and shows some of them in TensorBoard."""
    split = "valid" if cache.split("valid") else "train"
    segments = Segments(cache, split, vae.config, augment=False)
    target, posterior = encode_segments(vae, spectrogram, segments, SEGMENTS)
    with torch.inference_mode():
        reconstruction = torch.cat([vae.decode(latents) for latents in posterior.mode().split(8)])
    channel_kl = posterior.kl().mean(dim=(0, 2)).tolist() if vae.config.model.variational else []
    variance = posterior.mean.var(dim=(0, 2))
    if channel_kl and all(map(math.isfinite, channel_kl)):
        board.add_histogram("validation/channel_kl", torch.tensor(channel_kl), step)
    for name, sounds in (("target", target), ("reconstruction", reconstruction)):
        _show(board, name, sounds[:EXAMPLES], step=step, spectrogram=spectrogram)
    return Validation(
        error_db=float(mean_error_db(reconstruction, target, spectrogram.config)),
        mel_error_db=mel_error_db(reconstruction, target, spectrogram),
        kl=sum(channel_kl, start=0.0),
        channel_kl=tuple(channel_kl),
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
        channels=len(variance),
        held_out=split == "valid",
    )


def _show(
    board: SummaryWriter,
    name: str,
    sounds: Float[Tensor, "examples 1 n_bands frames"],
    *,
    step: int,
    spectrogram: Spectrogram,
) -> None:
    config, bank = spectrogram.config, spectrogram.bank
    for index, sound in enumerate(sounds):
        # Most of what is heard lies within two standard deviations. The lowest band is at the bottom.
        board.add_image(f"{name}/{index}", (sound + 2).div(4).clamp(0, 1).flip(1), step)
        magnitude = spectrogram.magnitude(sound)
        waveform = griffin_lim(magnitude, hop_length=config.hop_length, iterations=EXAMPLE_ITERATIONS, bank=bank)
        board.add_audio(f"{name}/{index}", waveform.clamp(-1, 1), step, sample_rate=config.sample_rate)
