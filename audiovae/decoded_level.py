"""The level of what the decoder makes of latents: from end to end, or by excerpts where that would be hours."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audiovae.level import ABSOLUTE_GATE_DB, LevelMeter
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram

COMPONENTS, FRAMES_AT_ONCE = 64, 1024
"""Of the model's linear part, which says of every latent frame how loud it is, about; and latent frames at a time."""
EXCERPTS, EXCERPT_LATENT_FRAMES, EXCERPT_CONTEXT = 64, 4, 4
"""What is decoded to tell how much louder the decoder is than its linear part, all channels together."""


def level_db_of(magnitudes: list[Tensor], spectrogram: Spectrogram) -> float:
    """Level in dBFS of inverted magnitudes that come in pieces [channels, bins, frames]."""
    meter = LevelMeter(spectrogram.config.frame_rate)
    for piece in magnitudes:
        meter.add_powers(spectrogram.frame_power(piece).cpu())
    return max(meter.level_db, ABSOLUTE_GATE_DB)


@torch.inference_mode()
def estimated_level_db(
    mean: Float[Tensor, "channels latent_channels latent_frames"], model: VAE, spectrogram: Spectrogram
) -> float:
    """What ``level_db_of`` would say within some 0.2 dB, in a time that doesn't depend on the length.

    A ratio estimate (Cochran, "Sampling techniques", 1977): the linear part of the model costs next to nothing, so
    that every frame can be asked (one stroke may be all that is loud in an hour), and the decoder differs from it by a
    factor that varies less than music does. The excerpts that tell the factor are drawn in proportion to their power,
    evenly, without chance.
    """
    device, frames = spectrogram.window.device, mean.shape[2]
    parts = mean.split(FRAMES_AT_ONCE, dim=2)
    powers = torch.cat([_linear_powers(part.to(device, torch.float32), model, spectrogram) for part in parts], dim=1)
    channel, place = _by_power(powers)
    start = (place - EXCERPT_LATENT_FRAMES // 2).clamp(0, frames - EXCERPT_LATENT_FRAMES)
    reach = torch.arange(-EXCERPT_CONTEXT, EXCERPT_LATENT_FRAMES + EXCERPT_CONTEXT)
    index = (start[:, None] + reach).clamp(0, frames - 1)
    excerpts = mean[channel[:, None], :, index].mT.to(device, torch.float32)
    own = slice(EXCERPT_CONTEXT, EXCERPT_CONTEXT + EXCERPT_LATENT_FRAMES)
    linear = _linear_powers(excerpts[..., own], model, spectrogram).sum(1)
    ratio = (_decoded_powers(excerpts, own, model, spectrogram) / linear.clamp_min(1e-30)).mean()
    meter = LevelMeter(model.config.latent_rate)
    meter.add_powers(powers.mean(0) * ratio)
    return max(meter.level_db, ABSOLUTE_GATE_DB)


def _by_power(
    powers: Float[Tensor, "channels latent_frames"],
) -> tuple[Int[Tensor, " excerpts"], Int[Tensor, " excerpts"]]:
    """Channel and place of the excerpts: at equal steps of the powers' running sum."""
    running = powers.flatten().double().cumsum(0)
    steps = (torch.arange(EXCERPTS) + 0.5) / EXCERPTS * running[-1]
    cells = torch.searchsorted(running, steps).clamp_max(len(running) - 1)
    return cells // powers.shape[1], cells % powers.shape[1]


def _linear_powers(
    latents: Float[Tensor, "batch latent_channels latent_frames"], model: VAE, spectrogram: Spectrogram
) -> Float[Tensor, "batch latent_frames"]:
    """Powers of the latent frames by the linear part, up to a factor: each band as if noise filled it."""
    bands = spectrogram.denormalise(model.components.decode(latents[:, :COMPONENTS])[:, 0])
    widths = 1 / spectrogram.bank.filters.square().sum(1)
    return (widths @ bands.square()).unflatten(1, (latents.shape[2], -1)).mean(2).cpu()


def _decoded_powers(
    excerpts: Float[Tensor, "batch latent_channels latent_frames"], own: slice, model: VAE, spectrogram: Spectrogram
) -> Float[Tensor, " batch"]:
    """Powers that the decoder gives to the excerpts' own latent frames, summed over them."""
    decoded = model.decode(excerpts)[:, 0].unflatten(2, (excerpts.shape[2], -1))[:, :, own]
    magnitude = spectrogram.magnitude(decoded.flatten(2))
    powers = spectrogram.frame_power(magnitude.movedim(0, 1).flatten(1)[None])
    return powers.unflatten(0, (len(excerpts), own.stop - own.start, -1)).mean(2).sum(1).cpu()
