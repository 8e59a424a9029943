"""Waveforms from STFT magnitudes: a phase is integrated from the magnitudes' gradients, then refined."""

import functools
import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from audiovae.bank import Bank
from audiovae.frame_weights import frame_weights
from audiovae.framing import Framing
from audiovae.looping import TINY, has_loops, pairs
from audiovae.phase_gradients import integrate_phase
from audiovae.phase_refinement import ACCELERATED, Acceleration, Iterations, refined
from audiovae.unevenness import uneven

SEPARATE_ITERATIONS = 8
"""Of a stereo recording's iterations at each rate, at most so many, the last, are made by each channel for itself."""


@torch.no_grad()
def griffin_lim(
    magnitude: Float[Tensor, "*recordings channels bins frames"],
    *,
    hop_length: int,
    iterations: int | Iterations,
    acceleration: Acceleration = ACCELERATED,
    window: Float[Tensor, " n_fft"] | None = None,
    past: Float[Tensor, "*past_recordings past_channels past_samples"] | None = None,
    phase: Float[Tensor, "*phase_recordings phase_bins phase_frames"] | None = None,
    bank: Bank | None = None,
) -> Float[Tensor, "*recordings channels samples"]:
    """Finds the waveform of a recording whose STFT has about this magnitude, ``(frames - 1) * hop_length`` samples.

    Griffin-Lim from phases integrated along the magnitudes' gradients (see ``phase_gradients``, and ``unevenness`` for
    magnitudes that were inverted from bands); where frames overlap, soft ones count more than loud ones (see
    ``frame_weights``). The channels begin with one phase, that of their sum, so that what they have in common stays
    alike and a mono mix doesn't comb. In the last iterations each follows its own magnitudes: what they don't have in
    common moves apart, which keeps the width.

    Args:
        magnitude: un-normalised STFT magnitudes; ``n_fft = 2 * (bins - 1)``. Recordings know nothing of each other.
        iterations: refinements of the start, each one STFT and its inverse; a number is that of all bins.
        window: of the STFT, by default a periodic Hann window, the one that the start is made for.
        past: what is already known of the waveform's beginning, a whole number of hops. It is returned as it is, and
            what follows continues it, so that a long recording can be made in blocks that overlap: give each at least
            8 frames of past and 32 beyond what is kept of it (its end is made as if silence followed).
        phase: radians to start from instead.
        bank: triangular filters, if the magnitudes were inverted from their bands. Then only the bands are held fixed:
            every iteration divides each band among its bins anew, by one update of the band inversion (Lee & Seung,
            2001). So what the bands don't say is left to what a signal can be, and isn't made up beforehand.

    Raises:
        ValueError: the sizes don't fit each other.
    """
    magnitude = magnitude.detach()
    bins, frames = magnitude.shape[-2:]
    iterations = iterations if isinstance(iterations, Iterations) else Iterations(iterations)
    window = torch.hann_window(2 * (bins - 1)) if window is None else window
    _check_window(window, hop_length, bins)
    _check(magnitude, hop_length, iterations, past, phase, bank)
    if magnitude.ndim > 3 and has_loops(magnitude):  # one recording after the other stays in the cache
        settings = {"hop_length": hop_length, "iterations": iterations, "acceleration": acceleration}
        alone = functools.partial(griffin_lim, **settings, window=window, bank=bank)
        pasts = [None] * len(magnitude) if past is None else past
        phases = [None] * len(magnitude) if phase is None else phase
        parts = zip(magnitude, pasts, phases, strict=True)
        return torch.stack([alone(one, past=before, phase=start) for one, before, start in parts])
    # Channels first, frames contiguous.
    magnitude = magnitude.float().movedim(-3, 0).transpose(-1, -2).contiguous()
    past = magnitude.new_zeros(*magnitude.shape[:-2], 0) if past is None else past.to(magnitude).movedim(-2, 0)
    if frames == 1:
        return past.movedim(0, -2)
    scale = _peak(magnitude, past)
    magnitude = magnitude / scale[..., None]
    target = magnitude if bank is None else bank.of_magnitudes(magnitude)
    framing = Framing(window.to(magnitude), hop_length, frames, past / scale, bank, frame_weights(target))
    middle, target_middle = _mean_channel(magnitude)[0], _mean_channel(target)
    start = _start_turns(framing, middle, target_middle[0]) if phase is None else phase.mT.float() / (2 * math.pi)
    spectrum = _from_turns(start.contiguous(), middle)
    if len(magnitude) == 1:
        padded = framing.synthesise(refined(framing, spectrum, target, iterations, acceleration), target)
    else:
        separate = iterations.at_most(SEPARATE_ITERATIONS)
        together = refined(framing, spectrum, target_middle, iterations.without(separate), acceleration)
        padded = _channels_refined(framing, framing.whole(together), target, separate, acceleration)
    waveform = framing.trimmed(padded) * scale
    waveform[..., : past.shape[-1]] = past
    return waveform.movedim(0, -2)


def _check_window(window: Tensor, hop_length: int, bins: int) -> None:
    n_fft = 2 * (bins - 1)
    if n_fft < 2 or window.shape != (n_fft,):
        raise ValueError(f"window of {len(window)} samples must have n_fft {n_fft} ({bins} bins), at least 2")
    if hop_length < 1:
        raise ValueError(f"hop_length {hop_length} must be at least 1")
    weight = torch.nn.functional.pad(window.float() ** 2, (0, -n_fft % hop_length)).view(-1, hop_length).sum(0)
    if weight.min() < 1e-6 * weight.max():
        raise ValueError(f"windows of n_fft {n_fft}, one every hop_length {hop_length} samples, leave gaps")


def _check(
    magnitude: Tensor,
    hop_length: int,
    iterations: Iterations,
    past: Tensor | None,
    phase: Tensor | None,
    bank: Bank | None,
) -> None:
    *recordings, channels, bins, frames = magnitude.shape
    samples = (frames - 1) * hop_length
    if not magnitude.numel():
        raise ValueError(f"magnitude has {channels} channels and {frames} frames; need at least one of each")
    if min(iterations) < 0:
        raise ValueError(f"iterations {min(iterations)} must not be negative")
    if past is not None and (
        past.shape[:-1] != (*recordings, channels) or past.shape[-1] % hop_length or past.shape[-1] > samples
    ):
        raise ValueError(
            f"past of {past.shape[-2]} channels, {past.shape[-1]} samples must have {channels} channels and "
            f"a multiple of hop_length {hop_length} samples, at most {samples}"
        )
    if phase is not None and phase.shape != (*recordings, bins, frames):
        raise ValueError(f"phase has shape {list(phase.shape)}, must have {[*recordings, bins, frames]}")
    if bank is not None and bank.filters.shape[1] != bins:
        raise ValueError(f"bank is of {bank.filters.shape[1]} bins, must be of {bins}")


def _peak(
    magnitude: Float[Tensor, "channels *recordings frames bins"],
    past: Float[Tensor, "channels *recordings past_samples"],
) -> Float[Tensor, "1 *recordings 1"]:
    """The largest number of each recording, by which the work is scaled; 1 for silence."""
    peak = magnitude.flatten(-2).amax(-1, keepdim=True)
    if past.shape[-1]:
        peak = torch.maximum(peak, past.abs().amax(-1, keepdim=True))
    peak = peak.amax(0, keepdim=True)
    return torch.where(peak > TINY, peak, 1.0)


def _mean_channel(x: Float[Tensor, "channels *shape"]) -> Float[Tensor, "1 *shape"]:
    """The mean of the channels; a single one is returned itself, not a copy."""
    return x if len(x) == 1 else x.mean(0, keepdim=True)


def _start_turns(
    framing: Framing,
    magnitude: Float[Tensor, "*recordings frames bins"],
    target: Float[Tensor, "*recordings frames bins_or_bands"],
) -> Float[Tensor, "*recordings frames bins"]:
    if framing.bank is not None:
        magnitude = uneven(magnitude, target, bank=framing.bank, hop_length=framing.hop_length)
    return integrate_phase(
        magnitude,
        hop_length=framing.hop_length,
        first=framing.first,
        before=framing.past_spectrum().angle() / (2 * math.pi) if framing.first else None,
        block_frames=framing.block_frames,
    )


def _from_turns(
    turns: Float[Tensor, "*recordings frames bins"], magnitude: Float[Tensor, "*recordings frames bins"]
) -> Complex[Tensor, "*recordings frames bins"]:
    if not has_loops(magnitude):
        return torch.polar(magnitude, 2 * math.pi * turns)
    from audiovae import compiled  # numba is slow to import

    spectrum = torch.empty_like(magnitude, dtype=torch.complex64)
    compiled.polar(magnitude.numpy(), turns.numpy(), pairs(spectrum))
    return spectrum


def _channels_refined(
    framing: Framing,
    spectrum: Complex[Tensor, "*recordings frames bins"],
    target: Float[Tensor, "channels *recordings frames bins_or_bands"],
    iterations: Iterations,
    acceleration: Acceleration,
) -> Float[Tensor, "channels *recordings padded_samples"]:
    """Each channel's signal after so many iterations of its own."""
    signals = []
    for channel, past in zip(target.split(1), framing.past.split(1), strict=True):
        weight = frame_weights(channel)
        alone = Framing(framing.window, framing.hop_length, framing.frames, past, framing.bank, weight)
        own = refined(alone, spectrum.clone(), channel, iterations, acceleration)
        signals.append(alone.synthesise(own, channel))
    return torch.cat(signals)
