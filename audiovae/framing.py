"""Waveform to windowed spectra and back, block by block: the two halves of a Griffin-Lim iteration.

On a CPU a recording is worked on in blocks of frames that stay in its cache, by compiled loops around the FFT (see
``compiled``); elsewhere, all frames of all recordings at once.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from audiovae.bank import Bank
from audiovae.looping import TINY, has_loops, pairs

CACHED_SAMPLES = 2**18
"""Windowed samples handled at a time on a CPU: more would leave its cache, fewer are ruled by the cost of calls."""
Source = Callable[[int, int], Complex[Tensor, "*recordings frames bins"]]
"""Gives the spectra of frames first to last, last excluded. Of their moduli only the shares within a band count."""


class Framing:
    """The frames of ``torch.stft(center=True, pad_mode="constant")``, with a window as long as the FFT.

    Signals here have half a window of padding at both ends, and begin with the past: samples that are known already.
    """

    def __init__(
        self,
        window: Float[Tensor, " n_fft"],
        hop_length: int,
        frames: int,
        past: Float[Tensor, "channels *recordings past_samples"],
        bank: Bank | None = None,
        weight: Float[Tensor, "*recordings frames"] | None = None,
    ) -> None:
        """``weight`` is how much each frame counts where frames overlap; by default all count alike."""
        self.bank = bank
        self.window, self.hop_length, self.frames, self.past = window, hop_length, frames, past
        self.n_fft = n_fft = len(window)
        self.padding = n_fft // 2
        # Frames that lie wholly in the past can't change anything after it: the work begins with the first free one.
        self.first = max(0, 1 + (past.shape[-1] - self.padding) // hop_length)
        self.block_frames = min(frames, max(1, CACHED_SAMPLES // n_fft)) if has_loops(past) else frames
        # Memory that is used again and again: fresh pages would cost more than what is done to them.
        self._cut_frames = past.new_empty(self.block_frames, n_fft)
        self._imposed = past.new_empty(self.block_frames, n_fft // 2 + 1, dtype=torch.complex64)
        self.padded_samples = (frames - 1) * hop_length + n_fft
        self.weight = past.new_ones(frames) if weight is None else weight
        self.gain = self._gain()

    def _gain(self) -> Float[Tensor, "*recordings padded_samples"]:
        """What makes the weighted windows of the free frames add up to one; zero outside the recording."""
        free, hops = self.weight[..., self.first :, None], self._hops(self.window**2)
        count = free.shape[-2]
        # As in _overlapped, but without a window's copy for each frame: so much fresh memory would cost more.
        total = free.new_zeros(*free.shape[:-2], count - 1 + len(hops), self.hop_length)
        for shift, hop in enumerate(hops):
            total[..., shift : shift + count, :] += free * hop
        gain = torch.where(total > 1e-8, total, torch.inf).reciprocal_().flatten(-2)
        if self.first:
            gain = torch.nn.functional.pad(gain, (self.first * self.hop_length, 0))
        gain = gain[..., : self.padded_samples]
        gain[..., : self.padding] = 0
        gain[..., self.padded_samples - self.padding :] = 0
        return gain

    def divisible(self, divisor: int) -> bool:
        """Whether frames begin on whole samples at the sample rate divided by this."""
        return self.hop_length % divisor == 0 and self.n_fft % (2 * divisor) == 0

    def at_rate(self, divisor: int, weight: Float[Tensor, "*recordings frames"] | None = None) -> "Framing":
        """The same frames at the sample rate divided by this: their spectra are the low bins of these."""
        window = self.window[::divisor].contiguous()
        bank = None if self.bank is None else self.bank.of_low_bins(len(window) // 2 + 1)
        return Framing(window, self.hop_length // divisor, self.frames, _at_rate(self.past, divisor), bank, weight)

    def whole(self, source: Source) -> Complex[Tensor, "*recordings frames bins"]:
        """All spectra of a source."""
        size = self.block_frames
        blocks = (source(first, min(first + size, self.frames)) for first in range(0, self.frames, size))
        return torch.cat(list(blocks), dim=-2)

    def analyse(self, signal: Float[Tensor, "*recordings padded_samples"]) -> Source:
        """The windowed FFT of any frames of a signal."""

        def spectra(first: int, last: int) -> Complex[Tensor, "*recordings frames bins"]:
            return torch.fft.rfft(self._cut(signal[..., first * self.hop_length :], last - first))

        return spectra

    def synthesise(
        self, source: Source, target: Float[Tensor, "signals *recordings frames bins_or_bands"]
    ) -> Float[Tensor, "signals *recordings padded_samples"]:
        """The weighted least-squares inverse STFT of each target with the same phase, the past put in its place.

        Targets are magnitudes or, where there is a bank, amplitudes of its bands. As many signals as the past has
        channels are its channels; a single one is their mean.
        """
        signals = self.past.new_zeros(len(target), *self.past.shape[1:-1], self.padded_samples)
        for first in range(self.first, self.frames, self.block_frames):
            last = min(first + self.block_frames, self.frames)
            spectrum, weight = source(first, last), self.weight[..., first:last]
            for index, signal in enumerate(signals):
                frames = torch.fft.irfft(self._impose(spectrum, target[index, ..., first:last, :]), n=self.n_fft)
                self._overlap_add(frames, weight, signal[..., first * self.hop_length :])
        signals *= self.gain
        if self.past.shape[-1]:
            self._join(signals, self.past if len(signals) == len(self.past) else self.past.mean(0, keepdim=True))
        return signals

    def trimmed(self, signal: Float[Tensor, "*signals padded_samples"]) -> Float[Tensor, "*signals samples"]:
        """Without the padding."""
        return signal[..., self.padding : self.padded_samples - self.padding]

    def past_spectrum(self) -> Complex[Tensor, "*recordings bins"]:
        """Of the last frame that lies wholly in the past, for the mean of the channels."""
        start = (self.first - 1) * self.hop_length
        padded = torch.nn.functional.pad(self.past.mean(0), (self.padding, 0))
        return torch.fft.rfft(padded[..., start : start + self.n_fft] * self.window)

    def _cut(self, signal: Float[Tensor, "*recordings rest"], frames: int) -> Float[Tensor, "*recordings frames n_fft"]:
        """The first windowed frames of a signal; valid until the next call."""
        if not has_loops(signal):
            return signal.unfold(-1, self.n_fft, self.hop_length)[..., :frames, :] * self.window
        from audiovae import compiled  # numba is slow to import

        cut = self._cut_frames[:frames]
        compiled.cut_frames(signal.numpy(), self.window.numpy(), self.hop_length, cut.numpy())
        return cut

    def _impose(
        self,
        spectrum: Complex[Tensor, "*recordings frames bins"],
        target: Float[Tensor, "*recordings frames bins_or_bands"],
    ) -> Complex[Tensor, "*recordings frames bins"]:
        """The spectrum with the target's moduli, or about its bands; valid until the next call."""
        if not has_loops(target):
            return spectrum * self._gains(spectrum, target)
        from audiovae import compiled  # numba is slow to import

        imposed = self._imposed[: len(target)]
        if self.bank is None:
            compiled.impose(pairs(spectrum), target.numpy(), pairs(imposed))
        else:
            compiled.impose_bands(pairs(spectrum), target.numpy(), *self.bank.arrays, pairs(imposed))
        return imposed

    def _gains(
        self,
        spectrum: Complex[Tensor, "*recordings frames bins"],
        target: Float[Tensor, "*recordings frames bins_or_bands"],
    ) -> Float[Tensor, "*recordings frames bins"]:
        """What bins must be multiplied by to have the target's moduli or about its bands.

        For bands it is one of the multiplicative updates that their inversion starts with.
        """
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        if self.bank is None:
            return target * power.add_(TINY).rsqrt_()
        return self.bank.gains(power.sqrt_(), target)

    def _overlap_add(
        self,
        frames: Float[Tensor, "*recordings frames n_fft"],
        weight: Float[Tensor, "*recordings frames"],
        signal: Float[Tensor, "*recordings rest"],
    ) -> None:
        """Adds windowed frames to a signal, as much of each as its weight says, the first at its beginning."""
        if has_loops(signal):
            from audiovae import compiled  # numba is slow to import

            given = frames.numpy(), self.window.numpy(), weight.numpy()
            compiled.overlap_add(*given, self.hop_length, signal.numpy())
            return
        signal += self._overlapped(frames * self.window * weight[..., None])

    def _overlapped(self, frames: Float[Tensor, "*recordings frames n_fft"]) -> Float[Tensor, "*recordings samples"]:
        """The sum of frames, one every hop: all their first hops at once, then all second ones..."""
        count, samples = frames.shape[-2], (frames.shape[-2] - 1) * self.hop_length + self.n_fft
        parts = self._hops(frames)
        rows = frames.new_zeros(*frames.shape[:-2], count - 1 + parts.shape[-2], self.hop_length)
        for shift, part in enumerate(parts.unbind(-2)):
            rows[..., shift : shift + count, :] += part
        return rows.flatten(-2)[..., :samples]

    def _hops(self, frames: Float[Tensor, "*frames n_fft"]) -> Float[Tensor, "*frames hops hop_length"]:
        """Frames cut into hops, the last one filled up with zeros."""
        padded = torch.nn.functional.pad(frames, (0, -self.n_fft % self.hop_length))
        return padded.unflatten(-1, (-1, self.hop_length))

    def _join(
        self,
        signals: Float[Tensor, "signals *recordings padded_samples"],
        past: Float[Tensor, "signals *recordings past_samples"],
    ) -> None:
        """Puts the past in its place, and fades out over a few samples what it differs by at its end: no click."""
        end, fade = self.padding + past.shape[-1], max(1, self.hop_length // 16)
        difference = (past[..., -fade:] - signals[..., end - fade : end]).flip(-1)
        signals[..., end : end + fade] += difference * torch.hann_window(2 * fade, device=past.device)[fade:]
        signals[..., self.padding : end] = past


def _at_rate(
    past: Float[Tensor, "*recordings past_samples"], divisor: int
) -> Float[Tensor, "*recordings low_past_samples"]:
    """The past at a lower rate, by cutting its spectrum; its mirror image behind it leaves no jump at the ends."""
    samples = past.shape[-1] // divisor
    if not samples:
        return past
    spectrum = torch.fft.rfft(torch.cat([past, past.flip(-1)], dim=-1))[..., : samples + 1]
    return torch.fft.irfft(spectrum, n=2 * samples)[..., :samples].contiguous()
