"""A perceptual score by Zimtohrli, a model of the ear (Google, the ``zimtohrli`` package): optional."""

from importlib.util import find_spec

from jaxtyping import Float
from torch import Tensor

from audiovae.audio import Audio

SAMPLE_RATE = 48_000
"""Hz; the only one that it hears."""


def why_not_zimtohrli() -> str | None:
    """Why the score can't be had here; None where it can."""
    return None if find_spec("zimtohrli") else 'zimtohrli is not installed (pip install "audiovae[evaluate]")'


def zimtohrli_mos(target: Float[Tensor, "1 samples"], output: Float[Tensor, "1 samples"], sample_rate: int) -> float:
    """Predicted mean opinion score of the output beside its target: 5 can't be told apart, 1 is bad."""
    from zimtohrli import mos_from_signals

    true, made = (
        Audio(waveform, sample_rate).resample(SAMPLE_RATE).waveform[0].numpy() for waveform in (target, output)
    )
    return float(mos_from_signals(true, made))
