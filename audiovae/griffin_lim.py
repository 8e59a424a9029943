"""Waveforms from STFT magnitudes: the phase is integrated from the magnitude's gradients, then refined.

Frames are those of ``torch.stft(center=True, pad_mode="constant")`` with a periodic Hann window as long as the FFT.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

GAUSSIAN_WIDTH = 0.25645
"""A Hann window of n samples is nearly the Gaussian exp(-pi t^2 / (GAUSSIAN_WIDTH n^2)) (Prusa et al., 2017)."""
QUIET = 1e-5
"""Magnitudes this far below the loudest one have no gradients to speak of: their phase starts at random."""
TINY = 1e-30
"""Added to squared magnitudes, so that zero divided by zero is zero."""
CACHED_SAMPLES = 2**18
"""Windowed samples handled at a time on a CPU: more would leave its cache, fewer are ruled by the cost of calls."""

Source = Callable[[int, int], Complex[Tensor, "frames bins"]]
"""Gives the spectra of frames first to last, last excluded; only their phase counts. The caller may overwrite them."""


@torch.no_grad()
def griffin_lim(
    magnitude: Float[Tensor, "channels bins frames"],
    *,
    hop_length: int,
    iterations: int,
    momentum: float = 0.99,
    seed: int = 0,
    past: Float[Tensor, "past_channels past_samples"] | None = None,
) -> Float[Tensor, "channels samples"]:
    """Finds the waveform of one recording whose STFT has about this magnitude, ``(frames - 1) * hop_length`` samples.

    Fast Griffin-Lim (Perraudin, Balazs & Sondergaard, "A fast Griffin-Lim algorithm", WASPAA 2013; momentum 0 is
    Griffin & Lim, 1984), started from integrated phase gradients (see ``_start_phase``). The channels share one
    phase, that of their sum: levels and therefore panning are those of ``magnitude``, and a mono mix doesn't comb.

    Args:
        magnitude: un-normalised STFT magnitudes; ``n_fft = 2 * (bins - 1)``.
        iterations: refinements of the start; each costs one STFT and its inverse.
        seed: of the phases of inaudible bins, the only ones drawn at random.
        past: what is already known of the waveform's beginning, a whole number of hops. It is returned as it is, and
            what follows continues it, so that a long recording can be made in blocks that overlap: give each at least
            8 frames of past and 32 beyond what is kept of it (its end is made as if silence followed).

    Raises:
        ValueError: the sizes don't fit each other.
    """
    _check(magnitude, hop_length, iterations, past)
    channels, bins, frames = magnitude.shape
    magnitude = magnitude.float().transpose(1, 2).contiguous()
    past = magnitude.new_zeros(channels, 0) if past is None else past.to(magnitude)
    if frames == 1:
        return past
    peak = torch.cat([magnitude.flatten(), past.abs().flatten()]).amax()
    scale = torch.where(peak > TINY, peak, 1.0)
    stft = _Stft(2 * (bins - 1), hop_length, frames, past / scale)
    magnitude = magnitude / scale
    phase = _refine(stft, magnitude.mean(0), iterations=iterations, momentum=momentum, seed=seed)
    waveform = stft.synthesise(phase, magnitude)[:, stft.padding : stft.padding + (frames - 1) * hop_length] * scale
    waveform[:, : past.shape[1]] = past
    return waveform


def _check(magnitude: Tensor, hop_length: int, iterations: int, past: Tensor | None) -> None:
    channels, bins, frames = magnitude.shape
    n_fft, samples = 2 * (bins - 1), (frames - 1) * hop_length
    if hop_length < 1 or n_fft % hop_length or n_fft < 4 * hop_length:
        raise ValueError(
            f"n_fft {n_fft} ({bins} bins) must be a multiple of hop_length {hop_length}, at least 4 times it"
        )
    if not channels or not frames:
        raise ValueError(f"magnitude has {channels} channels and {frames} frames; need at least one of each")
    if iterations < 0:
        raise ValueError(f"iterations {iterations} must not be negative")
    if past is not None and (past.shape[0] != channels or past.shape[1] % hop_length or past.shape[1] > samples):
        raise ValueError(
            f"past of {past.shape[0]} channels, {past.shape[1]} samples must have {channels} channels and "
            f"a multiple of hop_length {hop_length} samples, at most {samples}"
        )


class _Stft:
    """One STFT and its inverse, over (frames, bins) and block by block, on padded signals that begin with the past."""

    def __init__(self, n_fft: int, hop_length: int, frames: int, past: Float[Tensor, "channels past_samples"]) -> None:
        self.n_fft, self.hop_length, self.frames, self.past = n_fft, hop_length, frames, past
        self.padding = n_fft // 2
        self.window = torch.hann_window(n_fft, device=past.device)
        # Frames that lie wholly in the past can't change anything after it: the work begins with the first free one.
        self.first = max(0, 1 + (past.shape[1] - self.padding) // hop_length)
        on_cpu = past.device.type == "cpu"
        self.block_frames = max(1, CACHED_SAMPLES // n_fft) if on_cpu else frames
        weight = self.window.new_zeros(1, frames - 1 + n_fft // hop_length, hop_length)
        _overlap_add(weight[0, self.first :], self.window.expand(frames - self.first, n_fft), self.window)
        self.gain = torch.where(weight > 1e-8, 1 / weight, 0.0).flatten(1)
        self.gain[:, : self.padding] = 0
        self.gain[:, self.gain.shape[1] - self.padding :] = 0

    def analyse(self, signal: Float[Tensor, "padded_samples"]) -> Source:
        """The windowed FFT of any frames of a padded signal."""

        def spectrum(first: int, last: int) -> Complex[Tensor, "frames bins"]:
            frames = signal[first * self.hop_length :].unfold(0, self.n_fft, self.hop_length)[: last - first]
            return torch.fft.rfft(frames * self.window)

        return spectrum

    def synthesise(
        self, phase: Source, magnitude: Float[Tensor, "signals frames bins"]
    ) -> Float[Tensor, "signals padded_samples"]:
        """The least-squares inverse STFT of each magnitude with the same phase, the past put in its place.

        As many signals as the past has channels are its channels; a single one is their mean.
        """
        rows = self.frames - 1 + self.n_fft // self.hop_length
        signals = magnitude.new_zeros(len(magnitude), rows, self.hop_length)
        for first in range(self.first, self.frames, self.block_frames):
            last = min(first + self.block_frames, self.frames)
            spectrum = phase(first, last)
            inverse_modulus = _inverse_modulus(spectrum)
            for signal, target in zip(signals, magnitude[:, first:last], strict=True):
                frames = torch.fft.irfft(spectrum * (inverse_modulus * target), n=self.n_fft)
                _overlap_add(signal[first:], frames, self.window)
        padded = signals.flatten(1).mul_(self.gain)
        if self.past.shape[1]:
            self._join(padded, self.past if len(magnitude) == len(self.past) else self.past.mean(0, keepdim=True))
        return padded

    def _join(
        self, padded: Float[Tensor, "signals padded_samples"], past: Float[Tensor, "signals past_samples"]
    ) -> None:
        """Puts the past in its place, and fades out over a few samples what it differs by at its end: no click."""
        end, fade = self.padding + past.shape[1], max(1, self.hop_length // 16)
        difference = (past[:, -fade:] - padded[:, end - fade : end]).flip(1)
        padded[:, end : end + fade] += difference * torch.hann_window(2 * fade, device=past.device)[fade:]
        padded[:, self.padding : end] = past

    def past_spectrum(self) -> Complex[Tensor, "bins"]:
        """Of the last frame that lies wholly in the past, for the mean of the channels."""
        start = (self.first - 1) * self.hop_length
        padded = torch.nn.functional.pad(self.past.mean(0), (self.padding, 0))
        return torch.fft.rfft(padded[start : start + self.n_fft] * self.window)


def _overlap_add(
    rows: Float[Tensor, "rows hop_length"],
    frames: Float[Tensor, "frames n_fft"],
    window: Float[Tensor, "n_fft"],
) -> None:
    """Adds windowed frames to a signal cut into hops: all first hops of frames at once, then all second ones..."""
    hop_length = rows.shape[1]
    slices = frames.unflatten(1, (-1, hop_length)).unbind(1)
    for shift, (part, weight) in enumerate(zip(slices, window.view(-1, hop_length), strict=True)):
        rows[shift : shift + len(frames)].addcmul_(part, weight)


def _inverse_modulus(spectrum: Complex[Tensor, "frames bins"]) -> Float[Tensor, "frames bins"]:
    """1 / |spectrum|, and finite at zero; several times faster than ``abs``, which guards against overflow."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return (real * real).addcmul_(imaginary, imaginary).add_(TINY).rsqrt_()


def _refine(
    stft: _Stft, magnitude: Float[Tensor, "frames bins"], *, iterations: int, momentum: float, seed: int
) -> Source:
    """Fast Griffin-Lim: the phase after so many iterations.

    The paper extrapolates the spectrum STFT(y) of one iterate y from that of the one before. The STFT is linear, so
    extrapolating the signals is the same, with one array of samples to remember instead of one of frames.
    """
    angle = _start_phase(stft, magnitude, seed=seed)

    def start(first: int, last: int) -> Complex[Tensor, "frames bins"]:
        return torch.complex(angle[first:last].cos(), angle[first:last].sin())

    phase: Source = start
    previous = None
    for _ in range(iterations):
        signal = stft.synthesise(phase, magnitude[None])[0]
        phase = stft.analyse(signal if previous is None else torch.lerp(previous, signal, 1 + momentum))
        previous = signal
    return phase


def _start_phase(stft: _Stft, magnitude: Float[Tensor, "frames bins"], *, seed: int) -> Float[Tensor, "frames bins"]:
    """Phase gradient integration (Prusa, Balazs & Sondergaard, "A noniterative method for reconstruction of phase
    from STFT magnitude", TASLP 2017) without a heap: which bin follows which is a matter of magnitudes alone, so
    that a frame's phase is one look-up in the frame before and one addition.
    """
    frames, bins = magnitude.shape
    generator = torch.Generator().manual_seed(seed)
    log_magnitude = (magnitude + 1e-10).log()
    phase = torch.empty_like(magnitude)
    before = math.pi * (torch.arange(bins, device=magnitude.device) % 2).float()
    if stft.first:
        before = stft.past_spectrum().angle()
    for first in range(stft.first, frames, stft.block_frames):
        last = min(first + stft.block_frames, frames)
        step, peak = _phase_steps(log_magnitude, first, last, n_fft=stft.n_fft, hop_length=stft.hop_length)
        quiet = magnitude[first:last] < QUIET
        step[quiet] = 2 * math.pi * torch.rand(int(quiet.sum()), generator=generator).to(step.device)
        for row, ahead, index in zip(phase[first:last].unbind(0), step.unbind(0), peak.unbind(0), strict=True):
            before = torch.add(ahead, before.index_select(0, index), out=row)
        before = before.remainder(2 * math.pi)
    return phase


def _phase_steps(
    log_magnitude: Float[Tensor, "all_frames bins"], first: int, last: int, *, n_fft: int, hop_length: int
) -> tuple[Float[Tensor, "frames bins"], Int[Tensor, "frames bins"]]:
    """For each bin, the peak that it climbs to, and how far its phase is ahead of that peak's one frame before.

    A peak advances by its frequency; along its flanks the phase follows the gradient over frequency. (The paper lets
    a flank advance by itself where the frame before is louder; on music, flanks locked to peaks are 1.3 dB better.)
    """
    frames, bins = log_magnitude.shape
    index = torch.arange(first - 1, last + 1, device=log_magnitude.device).clamp(0, frames - 1)
    earlier, now, later = log_magnitude[index[:-2]], log_magnitude[first:last], log_magnitude[index[2:]]
    stretch = 1 / (GAUSSIAN_WIDTH * n_fft / hop_length)
    bin_index = torch.arange(bins, device=now.device)
    over_time = 2 * math.pi / n_fft * (hop_length * bin_index % n_fft).float().expand(len(now), bins).clone()
    slope = earlier + now
    over_time[:, 1:-1] += stretch / 4 * (slope[:, 2:] - slope[:, :-2])
    # Centred differences over two frames; over one at either end of the recording.
    span = (index[2:] - index[:-2]).clamp(min=1)[:, None]
    over_frequency = (earlier - later) / (stretch * span)
    if first == 0:
        over_time[0] = 0
    along = torch.nn.functional.pad((over_frequency[:, 1:] + over_frequency[:, :-1]) / 2, (1, 0)).cumsum(1)
    # Frames begin half a window before their centre, which turns every second bin by pi.
    along += math.pi * (bin_index % 2)
    peak = _peaks(now)
    return (along + (over_time - along).gather(1, peak)).remainder_(2 * math.pi), peak


def _peaks(level: Float[Tensor, "frames bins"]) -> Int[Tensor, "frames bins"]:
    """The local maximum over bins that is reached by always going to the louder neighbour."""
    bins = level.shape[1]
    index = torch.arange(bins, device=level.device)
    padded = torch.nn.functional.pad(level, (1, 1), value=-math.inf)
    left, right = padded[:, :-2], padded[:, 2:]
    goes_left = (left >= right) & (left > level)
    goes_right = (right > left) & (right > level)
    leftwards = (index * ~goes_left).cummax(1).values
    rightwards = (bins - 1) - ((bins - 1 - index) * ~goes_right).flip(1).cummax(1).values.flip(1)
    return torch.where(goes_right, rightwards, leftwards)
