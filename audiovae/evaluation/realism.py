"""Whether decoded sounds are like real ones: reconstructions, in-betweens, and new sounds.

FD-MFCC is the Fréchet distance of MFCC statistics (``frechet.mfcc_features``) to those of the real clips. It is in
squared dB, of no meaning by itself, and smaller sets give larger values: compare within one evaluation only. It hardly
tells roughness, which how much MFCCs change from frame to frame does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from audiovae.codec import Codec
from audiovae.evaluation.frechet import frechet_distance, mean_change_db, mfcc_features
from audiovae.evaluation.in_betweens import Middles, named
from audiovae.latents import Latents
from audiovae.model.prior import Prior

PRIOR_FRAMES = 32
"""Latent frames (1.5 s) of the pieces that a prior is fitted to."""
SAMPLES_OF_A_CLIP, SAMPLE_FRAMES = 16, 64
"""New sounds for each clip, and their latent frames (3 s): with few, chance would decide which kinds are drawn."""


@dataclass(frozen=True)
class Likeness:
    """How like real sounds some others are."""

    fd_mfcc: float
    change_db: float
    """How much an MFCC changes from one frame to the next, on average: the nearer to real sounds', the better."""


UNKNOWN = Likeness(math.nan, math.nan)


def realism(
    codec: Codec,
    prior: Prior,
    clips: Sequence[Latents],
    middles: Middles,
    real: Float[Tensor, "seconds features"],
    *,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Likeness]:
    """Likeness to the real clips, by kind of sounds; NaN for new sounds of a flow if the prior has none.

    ``prior`` is what new sounds are drawn from; N(0, I), frame by frame, is what the VAE's KL asks the latents to be.
    """
    kinds = {"reconstructions": clips} | {named("in-betweens", way): some for way, some in middles.items()}
    found = {name: likeness(codec, sounds, real) for name, sounds in kinds.items()}
    priors = {
        "new sounds, flow": prior if prior.flow else None,
        "new sounds, mixture": prior.without_flow(),
        "new sounds, N(0, I)": Prior.standard(codec.config.model.latent_channels),
    }
    for name, drawn_from in priors.items():
        found[name] = likeness(codec, _samples(drawn_from, clips), real) if drawn_from else UNKNOWN
    advance()
    return found


def fit_prior(clips: Sequence[Latents], importance: Float[Tensor, " latent_channels"]) -> Prior:
    """A prior for a baseline that has none: fitted to these very clips, which is an advantage."""
    pieces = [piece for one in clips for piece in one.mean.split(PRIOR_FRAMES, dim=2) if piece.shape[2] == PRIOR_FRAMES]
    if len(pieces) < 2:
        return Prior.standard(clips[0].mean.shape[1])
    return Prior.fit(torch.cat(pieces), importance=importance)


def _samples(prior: Prior, clips: Sequence[Latents]) -> list[Latents]:
    generator = torch.Generator().manual_seed(0)
    drawn = prior.sample(SAMPLE_FRAMES, count=SAMPLES_OF_A_CLIP * len(clips), generator=generator)
    return [replace(clips[0], mean=mean[None], logvar=None) for mean in drawn]


def likeness(codec: Codec, sounds: Sequence[Latents], real: Float[Tensor, "seconds features"]) -> Likeness:
    """Of the spectrograms that latents are decoded to; no synthesis has a part in it."""
    config = codec.config.spectrogram
    features = [torch.zeros(0, real.shape[1])]
    for sound in sounds:
        magnitude = codec.spectrogram.magnitude(codec.spectrogram_of(sound)[0].to(codec.device)).cpu()
        features.append(mfcc_features(magnitude, sample_rate=config.sample_rate, hop_length=config.hop_length))
    made = torch.cat(features)
    return Likeness(frechet_distance(made, real), mean_change_db(made))
