"""The loops of bands and phases that a CPU spends its time in, compiled by numba to stay in its cache.

Arrays are float32 and contiguous along the last axis. Rows are taken out before the inner loops: a compiler that knows
where a row begins and ends can use the CPU's vector units on it.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
from numba import njit

from audiovae import looping

TINY = np.float32(looping.TINY)
FRAMES_AT_ONCE = 128
"""Frames whose bands are inverted at a time: their magnitudes (0.5 MB) stay in the cache."""
_NODES = np.cos(np.linspace(0, np.pi, 64))
COSINE = np.polyfit(_NODES**2, np.cos(np.pi * _NODES), 5).astype(np.float32)
SINE = np.polyfit(_NODES**2, np.pi * np.sinc(_NODES), 5).astype(np.float32)
"""cos(pi u) and sin(pi u) / u for u from -1 to 1, as polynomials of u^2 (their error is 1e-6), which a loop evaluates
for many numbers at once."""


def compile_loop(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles at the first call, and keeps the result beside the package or in the user's cache folder."""
    options: dict[str, Any] = {"fastmath": True, "nogil": True, "error_model": "numpy"}
    try:
        return njit(loop, cache=True, **options)
    except RuntimeError:  # numba found no folder that it may write to
        return njit(loop, **options)


@compile_loop
@no_type_check
def cut_frames(signal, window, hop_length, frames):
    """Fills ``frames [frames, n_fft]`` with the windowed signal, one every ``hop_length`` samples."""
    for t in range(len(frames)):
        part, frame = signal[t * hop_length : t * hop_length + len(window)], frames[t]
        for i in range(len(window)):
            frame[i] = part[i] * window[i]


@compile_loop
@no_type_check
def overlap_add(frames, window, weight, hop_length, signal):
    """Adds windowed frames to the signal, one every ``hop_length`` samples, each times its weight."""
    for t in range(len(frames)):
        part, frame, times = signal[t * hop_length : t * hop_length + len(window)], frames[t], weight[t]
        for i in range(len(window)):
            part[i] += times * frame[i] * window[i]


@compile_loop
@no_type_check
def extrapolate(projected, t, d, alpha, beta, gamma):
    """A step of ``Acceleration``: takes ``t`` and ``d`` to the next iteration, and ``projected`` to c."""
    for i in range(len(t)):
        before = t[i]
        step = d[i] + gamma * (projected[i] - d[i]) - before
        t[i] = before + step
        d[i] = before + (np.float32(1) + beta) * step
        projected[i] = before + (np.float32(1) + alpha) * step


@compile_loop
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


@compile_loop
@no_type_check
def polar(magnitude, turns, result):
    """Fills ``result``, pairs of floats, with complex numbers of these moduli ``[frames, bins]`` and turns."""
    for t in range(len(magnitude)):
        moduli, angles, out = magnitude[t], turns[t], result[t]
        for k in range(len(moduli)):
            u = np.float32(2) * (angles[k] - np.floor(angles[k] + np.float32(0.5)))
            v, cosine, sine = u * u, np.float32(0), np.float32(0)
            for i in range(len(COSINE)):
                cosine, sine = cosine * v + COSINE[i], sine * v + SINE[i]
            out[2 * k] = moduli[k] * cosine
            out[2 * k + 1] = moduli[k] * sine * u


@compile_loop
@no_type_check
def _band_sums(modulus, first_band, lower, upper, sums):
    """Band amplitudes of one frame.

    A bin lies in band ``first_band`` with its lower weight and in the next one with its upper weight. Sums are made in
    variables, since memory that was just written is slow to read.
    """
    band, own, following = np.int32(0), np.float32(0), np.float32(0)
    for k in range(len(modulus)):
        while band != first_band[k]:
            sums[band] = own
            own, following = following, np.float32(0)
            band += np.int32(1)
        own += lower[k] * modulus[k]
        following += upper[k] * modulus[k]
    sums[band], sums[band + 1] = own, following
    sums[band + 2 :] = 0


@compile_loop
@no_type_check
def _moduli(pairs, modulus):
    for k in range(len(modulus)):
        real, imaginary = pairs[2 * k], pairs[2 * k + 1]
        modulus[k] = np.sqrt(real * real + imaginary * imaginary)


@compile_loop
@no_type_check
def bands_of_spectra(spectrum, first_band, lower, upper, bands):
    """Fills ``bands [frames, n_bands]``; see ``bank.Bank.arrays``."""
    modulus = np.empty(len(first_band), np.float32)
    for t in range(len(bands)):
        _moduli(spectrum[t], modulus)
        _band_sums(modulus, first_band, lower, upper, bands[t])


@compile_loop
@no_type_check
def bands_of_magnitudes(magnitude, first_band, lower, upper, bands):
    """The same of magnitudes."""
    for t in range(len(bands)):
        _band_sums(magnitude[t], first_band, lower, upper, bands[t])


@compile_loop
@no_type_check
def impose_bands(spectrum, bands, first_band, lower, upper, lower_share, upper_share, result):
    """Gives ``spectrum`` about the band amplitudes of ``bands [frames, n_bands]``, bins of a band keeping their shares.

    See ``bank.Bank.arrays``.
    """
    modulus, ratio = np.empty(len(first_band), np.float32), np.empty(bands.shape[1], np.float32)
    for t in range(len(bands)):
        pairs, target, out = spectrum[t], bands[t], result[t]
        _moduli(pairs, modulus)
        _band_sums(modulus, first_band, lower, upper, ratio)
        for band in range(len(target)):
            ratio[band] = target[band] / (ratio[band] + TINY)
        band, own, following = np.int32(0), ratio[0], ratio[1]
        for k in range(len(modulus)):
            if band != first_band[k]:
                band = first_band[k]
                own, following = ratio[band], ratio[band + 1]
            modulus[k] = lower_share[k] * own + upper_share[k] * following
        for k in range(len(modulus)):
            out[2 * k] = pairs[2 * k] * modulus[k]
            out[2 * k + 1] = pairs[2 * k + 1] * modulus[k]


@compile_loop
@no_type_check
def invert_bands(bands, first_band, lower, upper, lower_share, upper_share, updates, magnitude):
    """Fills ``magnitude [bins, frames]`` for ``bands [n_bands, frames]``; see ``bank.Bank.inverted``.

    A block of frames at a time, and always of as many: what is computed for one doesn't depend on how many there are.
    Inner loops go over the frames, which are alike, and not over the bins.
    """
    n_bands, frames = bands.shape
    wanted = np.zeros((n_bands, FRAMES_AT_ONCE), np.float32)
    ratio = np.empty((n_bands, FRAMES_AT_ONCE), np.float32)
    part = np.empty((len(first_band), FRAMES_AT_ONCE), np.float32)
    for first in range(0, frames, FRAMES_AT_ONCE):
        last = min(first + FRAMES_AT_ONCE, frames)
        wanted[:, : last - first] = bands[:, first:last]
        part[:] = 1
        _multiply_by_bands(part, wanted, first_band, lower, upper)
        for _ in range(updates):
            ratio[:] = 0
            for k in range(len(first_band)):
                own, following, bins = ratio[first_band[k]], ratio[first_band[k] + 1], part[k]
                for i in range(FRAMES_AT_ONCE):
                    own[i] += lower[k] * bins[i]
                    following[i] += upper[k] * bins[i]
            for band in range(n_bands):
                row, goal = ratio[band], wanted[band]
                for i in range(FRAMES_AT_ONCE):
                    row[i] = goal[i] / (row[i] + TINY)
            _multiply_by_bands(part, ratio, first_band, lower_share, upper_share)
        for k in range(len(first_band)):
            magnitude[k, first:last] = part[k, : last - first]


@compile_loop
@no_type_check
def _multiply_by_bands(part, bands, first_band, lower, upper):
    """Multiplies the bins of ``part [bins, FRAMES_AT_ONCE]`` by what their two bands have."""
    for k in range(len(first_band)):
        own, following, bins = bands[first_band[k]], bands[first_band[k] + 1], part[k]
        for i in range(FRAMES_AT_ONCE):
            bins[i] *= lower[k] * own[i] + upper[k] * following[i]


@compile_loop
@no_type_check
def _deviations(magnitude, deviation):
    """See ``phase_gradients._deviations``, here on one denominator; the outermost bins have none."""
    one, two = np.float32(1), np.float32(2)
    for k in range(1, len(magnitude) - 1):
        left, centre, right = magnitude[k - 1], magnitude[k], magnitude[k + 1]
        with_left, with_right = left + centre, right + centre
        upwards = left * (centre - two * left) * with_right + right * (two * right - centre) * with_left
        bins = upwards / (with_left * with_right * (left + right) + TINY)
        bins = one if bins > one else bins  # min and max are slower: they ask for NaN too
        deviation[k] = -one if bins < -one else bins


@compile_loop
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
    peak, right_peak = np.zeros(bins, np.int32), np.zeros(bins, np.int32)
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
            last = last if rises[k] else np.int32(k)
            right_peak[k] = last
        for k in range(bins):
            peak[k] = right_peak[k] if rises[k] else peak[k]
        before = phase[t]
        for k in range(bins):
            turns = start[peak[k]] + along[k]
            before[k] = turns - np.floor(turns)
