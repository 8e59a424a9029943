"""The loops of phase reconstruction that a CPU spends its time in, compiled by numba to stay in its cache.

Arrays are float32 and contiguous along the last axis. Rows are taken out before the inner loops: a compiler that knows
where a row begins and ends can use the CPU's vector units on it.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
from numba import njit

TINY = np.float32(1e-30)
"""Added to squared magnitudes, so that zero divided by zero is zero."""


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call, and keeps the result beside the package or in the user's cache folder."""
    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    try:
        return njit(loop, cache=True, **options)
    except RuntimeError:  # numba found no folder that it may write to
        return njit(loop, **options)


@_compiled
@no_type_check
def cut_frames(signal, window, hop_length, frames):
    """Fills ``frames [frames, n_fft]`` with the windowed signal, one every ``hop_length`` samples."""
    for t in range(len(frames)):
        part, frame = signal[t * hop_length : t * hop_length + len(window)], frames[t]
        for i in range(len(window)):
            frame[i] = part[i] * window[i]


@_compiled
@no_type_check
def overlap_add(frames, window, hop_length, signal):
    """Adds windowed frames to the signal, one every ``hop_length`` samples."""
    for t in range(len(frames)):
        part, frame = signal[t * hop_length : t * hop_length + len(window)], frames[t]
        for i in range(len(window)):
            part[i] += frame[i] * window[i]


@_compiled
@no_type_check
def impose(spectrum, magnitude, result):
    """Gives ``spectrum`` the moduli of ``magnitude [frames, bins]``; complex numbers are pairs of floats."""
    for t in range(len(magnitude)):
        pairs, target, out = spectrum[t], magnitude[t], result[t]
        for k in range(len(target)):
            real, imaginary = pairs[2 * k], pairs[2 * k + 1]
            gain = target[k] / np.sqrt(real * real + imaginary * imaginary + TINY)
            out[2 * k] = real * gain
            out[2 * k + 1] = imaginary * gain


@_compiled
@no_type_check
def impose_bands(
    spectrum, bands, first_band, lower_weight, upper_weight, lower_share, upper_share, modulus, ratio, result
):
    """Gives ``spectrum`` about the band amplitudes of ``bands [frames, n_bands]``, bins of a band keeping their shares.

    A bin lies in band ``first_band`` with its lower weight and in the next one with its upper weight; shares are
    weights that add up to one. ``modulus [bins]`` and ``ratio [n_bands]`` are memory to work in.
    """
    for t in range(len(bands)):
        pairs, target, out = spectrum[t], bands[t], result[t]
        ratio[:] = 0
        for k in range(len(modulus)):
            real, imaginary = pairs[2 * k], pairs[2 * k + 1]
            modulus[k] = np.sqrt(real * real + imaginary * imaginary)
        for k in range(len(modulus)):
            ratio[first_band[k]] += lower_weight[k] * modulus[k]
            ratio[first_band[k] + 1] += upper_weight[k] * modulus[k]
        for band in range(len(target)):
            ratio[band] = target[band] / (ratio[band] + TINY)
        for k in range(len(modulus)):
            modulus[k] = lower_share[k] * ratio[first_band[k]] + upper_share[k] * ratio[first_band[k] + 1]
        for k in range(len(modulus)):
            out[2 * k] = pairs[2 * k] * modulus[k]
            out[2 * k + 1] = pairs[2 * k + 1] * modulus[k]


@_compiled
@no_type_check
def _deviations(magnitude, deviation):
    """See ``phase_gradients._deviations``; the outermost bins have none."""
    for k in range(1, len(magnitude) - 1):
        left, centre, right = magnitude[k - 1], magnitude[k], magnitude[k + 1]
        from_left = left * (centre - 2 * left) / (left + centre + TINY)
        from_right = right * (2 * right - centre) / (right + centre + TINY)
        bins = (from_left + from_right) / (left + right + TINY)
        deviation[k] = min(max(bins, np.float32(-1)), np.float32(1))


@_compiled
@no_type_check
def integrate_phase(magnitude, log_magnitude, before, advance, along_scale, phase):
    """Fills ``phase [frames, bins]`` in turns; the magnitudes have one more frame on either side.

    See ``phase_gradients``. ``advance`` is the turns of one bin's frequency from frame to frame, ``along_scale`` the
    turns from bin to bin for a difference of log-magnitudes.
    """
    bins = phase.shape[1]
    along, start = np.zeros(bins, np.float32), np.zeros(bins, np.float32)
    deviation, deviation_before = np.zeros(bins, np.float32), np.zeros(bins, np.float32)
    falls, rises = np.zeros(bins, np.bool_), np.zeros(bins, np.bool_)
    peak = np.zeros(bins, np.int32)
    _deviations(magnitude[0], deviation_before)
    for t in range(len(phase)):
        earlier, now, later = log_magnitude[t], log_magnitude[t + 1], log_magnitude[t + 2]
        for k in range(1, bins):
            start[k] = along_scale * (earlier[k] - later[k] + earlier[k - 1] - later[k - 1])
        total = np.float32(0)
        for k in range(1, bins):
            total += start[k]
            along[k] = total + np.float32(0.5) * (k & 1)
        _deviations(magnitude[t + 1], deviation)
        for k in range(bins):
            frequency = k + np.float32(0.5) * (deviation[k] + deviation_before[k])
            start[k] = before[k] + advance * frequency - along[k]
        deviation, deviation_before = deviation_before, deviation
        for k in range(1, bins - 1):  # where the neighbours are equally loud, the way goes left
            falls[k] = (now[k - 1] > now[k]) & (now[k - 1] >= now[k + 1])
            rises[k] = (now[k + 1] > now[k]) & (now[k + 1] > now[k - 1])
        falls[bins - 1], rises[0] = now[bins - 2] > now[bins - 1], now[1] > now[0]
        last = np.int32(0)
        for k in range(bins):
            last = last if falls[k] else np.int32(k)
            peak[k] = last
        for k in range(bins - 1, -1, -1):
            last = last if rises[k] else peak[k]
            peak[k] = last
        before = phase[t]
        for k in range(bins):
            turns = start[peak[k]] + along[k]
            before[k] = turns - np.floor(turns)
