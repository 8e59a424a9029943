"""The level of what the decoder makes of latents: from end to end, or by excerpts where that would be hours."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from audiovae.level import ABSOLUTE_GATE_DB, PIECE_SECONDS, LevelMeter, gated_level_db
from audiovae.model.vae import VAE
from audiovae.spectrogram import Spectrogram

FEW_COMPONENTS, BAND_STEP = 32, 8
"""Components of the model's linear part, and the step between bands: they tell roughly how loud a latent frame is."""
STRATA, STRATUM_DB, PIECES_OF_A_STRATUM, PIECES = 12, 3.0, 64, 1024
"""Classes of pieces (``level.PIECE_SECONDS``) by loudness, and their width; how many pieces of each class are looked at
by the linear part, at least; and about how many more in all."""
EXCERPTS, EXCERPT_LATENT_FRAMES, EXCERPT_CONTEXT = 64, 4, 4
"""How many excerpts are decoded, of all channels together, how long, and with how much context."""


def level_db_of(magnitudes: Iterable[Tensor], spectrogram: Spectrogram) -> float:
    """Level in dBFS of inverted magnitudes that come in pieces [channels, bins, frames]."""
    return max(_metered(magnitudes, spectrogram).level_db, ABSOLUTE_GATE_DB)


def crest_db_of(magnitudes: Iterable[Tensor], spectrogram: Spectrogram) -> float:
    """By how many dB the loudest moment lies above that level; 0 for silence."""
    meter = _metered(magnitudes, spectrogram)
    return max(meter.loudest_db, ABSOLUTE_GATE_DB) - max(meter.level_db, ABSOLUTE_GATE_DB)


def _metered(magnitudes: Iterable[Tensor], spectrogram: Spectrogram) -> LevelMeter:
    meter = LevelMeter(spectrogram.config.frame_rate)
    for piece in magnitudes:
        meter.add_powers(spectrogram.frame_power(piece).cpu())
    return meter


@torch.inference_mode()
def estimated_level_db(
    mean: Float[Tensor, "channels latent_channels latent_frames"], model: VAE, spectrogram: Spectrogram
) -> float:
    """What ``level_db_of`` would say within some 0.2 dB, in a time that doesn't depend on the length.

    A ratio estimate of a stratified sample (Cochran, "Sampling techniques", 1977). First a few components tell about
    how loud every frame is, since a single stroke may be all that is loud in an hour. Then the whole linear part of the
    model measures some pieces of each loudness. The decoder differs from that by a factor that varies less than music
    does: it is measured on excerpts, chosen in proportion to their power at even steps, not at random.
    """
    device, together = spectrogram.window.device, max(1, round(PIECE_SECONDS * model.config.latent_rate))
    piece, count = _stratified(_loudness(mean, model, spectrogram), together)
    frame = (piece[:, None] * together + torch.arange(together)).flatten()
    powers = _linear_powers(mean[:, :, frame].to(device, torch.float32), model, spectrogram)
    channel, place = _by_power(powers * count.repeat_interleave(together))
    start = (frame[place] - EXCERPT_LATENT_FRAMES // 2).clamp(0, mean.shape[2] - EXCERPT_LATENT_FRAMES)
    reach = torch.arange(-EXCERPT_CONTEXT, EXCERPT_LATENT_FRAMES + EXCERPT_CONTEXT)
    index = (start[:, None] + reach).clamp(0, mean.shape[2] - 1)
    excerpts = mean[channel[:, None], :, index].mT.to(device, torch.float32)
    own = slice(EXCERPT_CONTEXT, EXCERPT_CONTEXT + EXCERPT_LATENT_FRAMES)
    linear = _linear_powers(excerpts[..., own], model, spectrogram).sum(1)
    ratio = (_decoded_powers(excerpts, own, model, spectrogram) / linear.clamp_min(1e-30)).mean()
    of_pieces = powers.mean(0).unflatten(0, (-1, together)).mean(1) * ratio
    return max(gated_level_db(of_pieces.double(), count), ABSOLUTE_GATE_DB)


def _loudness(
    mean: Float[Tensor, "channels latent_channels latent_frames"], model: VAE, spectrogram: Spectrogram
) -> Float[Tensor, " latent_frames"]:
    """Rough power of each latent frame, up to a factor: that of its patch's middle frame in every eighth band."""
    linear, device = model.components, spectrogram.window.device
    components, centre = (
        one.unflatten(-1, linear.patch)[..., ::BAND_STEP, linear.patch[1] // 2]
        for one in (linear.components, linear.mean)
    )
    scaled = mean[:, :FEW_COMPONENTS].to(device, torch.float32).mT * linear.scale[:FEW_COMPONENTS]
    bands = spectrogram.denormalise(scaled @ components[:FEW_COMPONENTS] + centre)
    return (bands.square() @ _widths(spectrogram)[::BAND_STEP]).mean(0).cpu()


def _stratified(
    loudness: Float[Tensor, " latent_frames"], together: int
) -> tuple[Int[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Numbers of pieces of every loudness, and how many each of them stands for.

    Evenly from the softest to the loudest: evenly in time, they might miss a rhythm's beats.
    """
    pieces = loudness[: len(loudness) // together * together].unflatten(0, (-1, together)).mean(1)
    # Beside what is loud is its decay, of which a few bands may tell nothing.
    around = functional.max_pool1d(pieces[None], 3, stride=1, padding=1)[0]
    below_db = 10 * torch.log10((around.max() / around.clamp_min(1e-30)).clamp_min(1.0))
    stratum = (below_db / STRATUM_DB).long().clamp_max(STRATA - 1)
    chosen, counts = [], []
    for number in stratum.unique():
        (own,) = torch.where(stratum == number)
        own = own[pieces[own].argsort(stable=True)]
        wanted = PIECES_OF_A_STRATUM + PIECES * len(own) // len(pieces)
        some = torch.linspace(0, len(own) - 1, min(len(own), wanted)).round().long()
        chosen.append(own[some])
        counts.append(torch.full((len(some),), len(own) / len(some), dtype=torch.float64))
    return torch.cat(chosen), torch.cat(counts)


def _by_power(
    powers: Float[Tensor, "channels sampled"],
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
    bands = spectrogram.denormalise(model.components.decode(latents)[:, 0])
    return (_widths(spectrogram) @ bands.square()).unflatten(1, (latents.shape[2], -1)).mean(2).cpu()


def _widths(spectrogram: Spectrogram) -> Float[Tensor, " n_bands"]:
    """Power of noise in each band, for a band amplitude of 1."""
    power = spectrogram.bank.filters.square().sum(1)
    return torch.where(power > 0, 1 / power, 0.0)  # of mels, some may be so narrow that they hold no bin


def _decoded_powers(
    excerpts: Float[Tensor, "batch latent_channels latent_frames"], own: slice, model: VAE, spectrogram: Spectrogram
) -> Float[Tensor, " batch"]:
    """Powers that the decoder gives to the excerpts' own latent frames, summed over them."""
    decoded = model.decode(excerpts)[:, 0].unflatten(2, (excerpts.shape[2], -1))[:, :, own]
    magnitude = spectrogram.magnitude(decoded.flatten(2))
    powers = spectrogram.frame_power(magnitude.movedim(0, 1).flatten(1)[None])
    return powers.unflatten(0, (len(excerpts), own.stop - own.start, -1)).mean(2).sum(1).cpu()
