"""How much each frame counts where frames overlap: soft ones more than loud ones.

As long as their phases don't fit, frames that overlap disagree about the samples that they share. The inverse STFT of
least squares (Griffin & Lim, 1984) takes their mean, which is right for errors of one size. But what a frame errs by is
as large as it is loud: beside an onset, the loud frame's error fills the silence before it (pre-echo). So each
frame's error is taken relative to its loudness, and the mean becomes a weighted one.
"""

import torch
from jaxtyping import Float
from torch import Tensor

POWER = 1.0
"""Of one over the loudness; at 0, for comparison, all frames count alike."""
LEAST_LOUDNESS = 0.18
"""The fourth root of a thousandth, added to loudness relative to the loudest frame's: what is far softer counts as
silence does. Were it less, hits in silence would come back too loud."""


def frame_weights(
    target: Float[Tensor, "signals *recordings frames bins_or_bands"],
) -> Float[Tensor, "*recordings frames"]:
    """Weights on the way to that target, whatever its level.

    The fourth root is near a logarithm: all bands count, not the bass alone.
    """
    loudness = target.mean(0).sqrt().sqrt().mean(-1)
    loudest = loudness.amax(-1, keepdim=True)
    relative = torch.where(loudest > 0, loudness / loudest, 0.0)
    return (relative + LEAST_LOUDNESS) ** (-4 * POWER)
