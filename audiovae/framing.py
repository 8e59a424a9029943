"""Waveform to windowed spectra and back, block by block: the two halves of a Griffin-Lim iteration.

On a CPU a recording is worked on in blocks of frames that stay in its cache, by compiled loops around the FFT (see
``compiled``); elsewhere, all frames of all recordings at once.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

TINY = 1e-30
"""Added to squared magnitudes, so that zero divided by zero is zero."""
CACHED_SAMPLES = 2**18
"""Windowed samples handled at a time on a CPU: more would leave its cache, fewer are ruled by the cost of calls."""
LOOPING_DEVICES = {"cpu"}
"""Where compiled loops are used."""

Source = Callable[[int, int], Complex[Tensor, "*recordings frames bins"]]
"""Gives the spectra of frames first to last, last excluded. Of their moduli only the shares within a band count."""


def has_loops(tensor: Tensor) -> bool:
    """Whether the compiled loops work on it: they take one recording at a time."""
    return tensor.device.type in LOOPING_DEVICES


class Bank:
    """Filters like triangles: a bin lies in two neighbouring ones at most. Bins in none of them are silent."""

    def __init__(self, filters: Float[Tensor, "n_bands bins"]) -> None:
        self.filters = filters
        self.column_sum = filters.sum(0)
        first = filters.ne(0).int().argmax(0).clamp(max=len(filters) - 2)
        lower, upper = filters.gather(0, first[None])[0], filters.gather(0, first[None] + 1)[0]
        if not torch.allclose(lower + upper, self.column_sum):
            raise ValueError("bank: a bin lies in more than two neighbouring bands")
        shares = (one / (self.column_sum + TINY) for one in (lower, upper))
        self.arrays = tuple(one.cpu().numpy() for one in (first.int(), lower, upper, *shares))
        self.memory = np.empty(filters.shape[1], np.float32), np.empty(len(filters), np.float32)


class Framing:
    """The frames of ``torch.stft(center=True, pad_mode="constant")``, with a window as long as the FFT.

    Signals here have half a window of padding at both ends, and begin with the past, which is given.
    """

    def __init__(
        self,
        window: Float[Tensor, " n_fft"],
        hop_length: int,
        frames: int,
        past: Float[Tensor, "channels *recordings past_samples"],
        bank: Bank | None = None,
    ) -> None:
        self.bank = bank
        self.window, self.hop_length, self.frames, self.past = window, hop_length, frames, past
        self.n_fft = n_fft = len(window)
        self.padding = n_fft // 2
        # Frames that lie wholly in the past can't change anything after it: the work begins with the first free one.
        self.first = max(0, 1 + (past.shape[-1] - self.padding) // hop_length)
        self.block_frames = min(frames, max(1, CACHED_SAMPLES // n_fft)) if has_loops(past) else frames
        # Memory that is used again and again: fresh pages would cost more than what is done to them.
        self._frames = past.new_empty(self.block_frames, n_fft)
        self._spectrum = past.new_empty(self.block_frames, n_fft // 2 + 1, dtype=torch.complex64)
        self.padded_samples = (frames - 1) * hop_length + n_fft
        self.gain = self._gain()

    def _gain(self) -> Float[Tensor, " padded_samples"]:
        """What makes the overlapping windows of the free frames add up to one; zero outside the recording."""
        weight = self._overlapped((self.window**2).expand(self.frames - self.first, -1))
        weight = torch.nn.functional.pad(weight, (self.first * self.hop_length, 0))
        gain = torch.where(weight > 1e-8, 1 / weight, 0.0)
        gain[: self.padding] = 0
        gain[self.padded_samples - self.padding :] = 0
        return gain

    def analyse(self, signal: Float[Tensor, "*recordings padded_samples"]) -> Source:
        """The windowed FFT of any frames of a signal."""

        def spectra(first: int, last: int) -> Complex[Tensor, "*recordings frames bins"]:
            return torch.fft.rfft(self._cut(signal[..., first * self.hop_length :], last - first))

        return spectra

    def synthesise(
        self, source: Source, target: Float[Tensor, "signals *recordings frames bins_or_bands"]
    ) -> Float[Tensor, "signals *recordings padded_samples"]:
        """The least-squares inverse STFT of each target with the same phase, the past put in its place.

        Targets are magnitudes or, where there is a bank, amplitudes of its bands. As many signals as the past has
        channels are its channels; a single one is their mean.
        """
        signals = target.new_zeros(*target.shape[:-2], self.padded_samples)
        for first in range(self.first, self.frames, self.block_frames):
            last = min(first + self.block_frames, self.frames)
            spectrum = source(first, last)
            for signal, wanted in zip(signals, target[..., first:last, :], strict=True):
                frames = torch.fft.irfft(self._impose(spectrum, wanted), n=self.n_fft)
                self._overlap_add(frames, signal[..., first * self.hop_length :])
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

        cut = self._frames[:frames]
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

        imposed = self._spectrum[: len(target)]
        if self.bank is None:
            compiled.impose(_pairs(spectrum), target.numpy(), _pairs(imposed))
        else:
            arrays = (*self.bank.arrays, *self.bank.memory)
            compiled.impose_bands(_pairs(spectrum), target.numpy(), *arrays, _pairs(imposed))
        return imposed

    def _gains(
        self,
        spectrum: Complex[Tensor, "*recordings frames bins"],
        target: Float[Tensor, "*recordings frames bins_or_bands"],
    ) -> Float[Tensor, "*recordings frames bins"]:
        """What bins must be multiplied by to have the target's moduli or about its bands.

        For bands it is one of the multiplicative updates that ``Spectrogram.magnitude`` starts with.
        """
        power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
        if self.bank is None:
            return target * power.add_(TINY).rsqrt_()
        ratio = target / (power.sqrt_() @ self.bank.filters.mT + TINY)
        return ratio @ self.bank.filters / (self.bank.column_sum + TINY)

    def _overlap_add(
        self, frames: Float[Tensor, "*recordings frames n_fft"], signal: Float[Tensor, "*recordings rest"]
    ) -> None:
        """Adds windowed frames to a signal, the first at its beginning."""
        if has_loops(signal):
            from audiovae import compiled  # numba is slow to import

            compiled.overlap_add(frames.numpy(), self.window.numpy(), self.hop_length, signal.numpy())
            return
        signal += self._overlapped(frames * self.window)

    def _overlapped(self, frames: Float[Tensor, "*recordings frames n_fft"]) -> Float[Tensor, "*recordings samples"]:
        """The sum of frames, one every hop: all their first hops at once, then all second ones..."""
        count, samples = frames.shape[-2], (frames.shape[-2] - 1) * self.hop_length + self.n_fft
        parts = torch.nn.functional.pad(frames, (0, -self.n_fft % self.hop_length)).unflatten(-1, (-1, self.hop_length))
        rows = frames.new_zeros(*frames.shape[:-2], count - 1 + parts.shape[-2], self.hop_length)
        for shift, part in enumerate(parts.unbind(-2)):
            rows[..., shift : shift + count, :] += part
        return rows.flatten(-2)[..., :samples]

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


def _pairs(spectrum: Complex[Tensor, "frames bins"]) -> np.ndarray:
    """Real and imaginary parts side by side, ``[frames, 2 * bins]``."""
    return torch.view_as_real(spectrum).flatten(1).numpy()
