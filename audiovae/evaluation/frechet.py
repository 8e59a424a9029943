"""How far two sets of sounds are apart as sets: the Fréchet distance of Gaussians fitted to their features."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.evaluation.log_mel import log_mel_db, with_floor

MFCCS = 40


def frechet_distance(a: Float[Tensor, "count_a features"], b: Float[Tensor, "count_b features"]) -> float:
    """||m_a - m_b||² + tr(C_a + C_b - 2 (C_a C_b)^½) (Dowson & Landau, 1982); NaN for fewer than two of each.

    Sets that are small beside their number of features seem further apart than they are: compare only distances
    of equally many features to one and the same reference.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    a, b = a.double(), b.double()
    root = _root(torch.cov(a.mT))
    # (C_a C_b)^½ has the trace of the root of the symmetric C_a^½ C_b C_a^½.
    cross = torch.linalg.eigvalsh(root @ torch.cov(b.mT) @ root).clamp_min(0).sqrt().sum()
    spread = a.var(0).sum() + b.var(0).sum() - 2 * cross
    return float((a.mean(0) - b.mean(0)).square().sum() + spread.clamp_min(0))


def mfcc_features(
    magnitude: Float[Tensor, "bins frames"], *, sample_rate: int, hop_length: int
) -> Float[Tensor, "seconds features"]:
    """For each second of a sound (half overlapping): mean, deviation and mean change a frame of 40 MFCCs.

    MFCCs are the cosine transform of log-mel levels (Davis & Mermelstein, 1980), in dB; here from the second
    coefficient on, since the first is only the level. A sound that is shorter than a second gives one row.
    """
    from torchaudio.functional import create_dct

    level_db = log_mel_db(magnitude, sample_rate)
    transform = create_dct(1 + MFCCS, level_db.shape[0], norm="ortho").to(level_db)[:, 1:]
    mfcc = transform.mT @ with_floor(level_db, level_db)
    window = max(2, min(round(sample_rate / hop_length), mfcc.shape[1]))
    pieces = mfcc.unfold(1, window, max(1, window // 2))
    change = pieces.diff(dim=2).abs().mean(2)
    return torch.cat([pieces.mean(2), pieces.std(2), change]).mT


def mean_change_db(features: Float[Tensor, "seconds features"]) -> float:
    """How much an MFCC changes from one frame to the next, of what ``mfcc_features`` gives; NaN of no sound."""
    return float(features[:, -MFCCS:].mean())


def _root(matrix: Float[Tensor, "size size"]) -> Float[Tensor, "size size"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
