"""How unlike the bins of a wide band are: in sounds they differ, in magnitudes inverted from bands they don't.

A signal whose bins are alike, frame after frame, is a pulse in the middle of every frame. So phases that are integrated
from inverted magnitudes make noise (cymbals, breath, bows) buzz at the frame rate, and iterations don't undo it. To
measures whose windows are as long as the STFT's that is as good as noise. To the ear it isn't.

So for the integration the bins of wide bands get the unevenness of noise. Two things must stay as they are: attacks,
which are pulses, and pure tones, which stand out from the bands around them.
"""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.bank import Bank
from audiovae.looping import TINY

POWER = 0.7
"""Of noise's magnitudes. At 1 high partials become noise, too; at 0 bins stay alike."""
WIDE_BINS = 4
"""A band of so many bins has the full unevenness, one of a single bin has none."""
STEADY = (0.5, 0.8)
"""A frame's softer neighbour over itself: below the first it is an attack, from the second on steady."""
FLAT = (0.03, 0.1)
"""The softer of the bands two below and two above, over a band: below the first it is a tone, from the second not."""
PERIOD_FRAMES = 512
"""Unevenness is that of so many frames of noise, again and again."""


def uneven(
    magnitude: Float[Tensor, "*recordings frames bins"],
    bands: Float[Tensor, "*recordings frames n_bands"],
    *,
    bank: Bank,
    hop_length: int,
) -> Float[Tensor, "*recordings frames bins"]:
    """Magnitudes that were inverted from ``bands``, with wide bands' bins as unlike each other as those of noise."""
    deviation, wide, lower_band = _of_noise(bank, hop_length, bands.device)
    own = deviation[torch.arange(magnitude.shape[-2], device=bands.device) % PERIOD_FRAMES]
    amount = _steadiness((bands * wide).sum(-1))[..., None] * _flatness(bands)
    return torch.addcmul(magnitude, magnitude, amount.index_select(-1, lower_band).mul_(own))


@functools.lru_cache(maxsize=4)
def _of_noise(bank: Bank, hop_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What the bins' magnitudes deviate by, [frames, bins]; which bands are wide; and each bin's lower band."""
    filters, n_fft = bank.filters.cpu(), 2 * (bank.filters.shape[1] - 1)
    noise = torch.randn(PERIOD_FRAMES * hop_length, generator=torch.Generator().manual_seed(0))
    turns = -(-(n_fft + len(noise)) // len(noise))  # it goes round, so that the last frames are the first ones' past
    frames = noise.repeat(turns).unfold(0, n_fft, hop_length)[:PERIOD_FRAMES] * torch.hann_window(n_fft)
    magnitude = torch.fft.rfft(frames).abs()
    bins = filters.sum(1).square() / filters.square().sum(1).clamp_min(TINY)
    strength = ((bins - 1) / (WIDE_BINS - 1)).clamp(0, 1)
    of_bins = (strength @ filters) / (filters.sum(0) + TINY)
    deviation = (magnitude / magnitude.mean()).pow(POWER * of_bins) - 1
    lower_band = torch.from_numpy(bank.arrays[0]).long()
    return deviation.to(device), (strength > 0).to(device, filters.dtype), lower_band.to(device)


def _steadiness(level: Float[Tensor, "*recordings frames"]) -> Float[Tensor, "*recordings frames"]:
    """1 where the frames before and after are about as loud, 0 where one of them is far softer."""
    return _ramp(torch.minimum(_moved(level, -1), _moved(level, 1)) / (level + TINY), STEADY)


def _flatness(bands: Float[Tensor, "*recordings frames n_bands"]) -> Float[Tensor, "*recordings frames n_bands"]:
    """0 for a band that stands out from those on either side, and for its neighbours; 1 for others."""
    flat = _ramp(torch.minimum(_moved(bands, -2), _moved(bands, 2)) / (bands + TINY), FLAT)
    return torch.minimum(flat, torch.minimum(_moved(flat, -1), _moved(flat, 1)))


def _ramp(x: Float[Tensor, "*shape"], ends: tuple[float, float]) -> Float[Tensor, "*shape"]:
    return ((x - ends[0]) / (ends[1] - ends[0])).clamp_(0, 1)


def _moved(x: Float[Tensor, "*shape"], by: int) -> Float[Tensor, "*shape"]:
    """Each place's neighbour so many places on along the last axis; beyond the ends, the last there is."""
    return x.index_select(-1, (torch.arange(x.shape[-1], device=x.device) + by).clamp_(0, x.shape[-1] - 1))
