"""How much each frame counts where frames overlap."""

import math
from pathlib import Path

import pytest
import torch
from phase_sounds import HOP, SAMPLE_RATE, bursts, chord, seconds, stft
from torch import Tensor

from audiovae import frame_weights, looping
from audiovae.audio import Audio
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.evaluation.reconstruction import log_mel_error_db
from audiovae.framing import Framing
from audiovae.griffin_lim import griffin_lim
from audiovae.spectrogram import Spectrogram

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
SPECTROGRAM = Spectrogram(SpectrogramConfig())
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("by_loops", [True, False])
def test_synthesis_is_the_weighted_least_squares_inverse(by_loops, monkeypatch):
    """Of a small problem, solved as it stands: the least sum of weight * |frame - windowed signal|^2."""
    if not by_loops:
        monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    n_fft, hop, frames, random = 16, 4, 6, torch.Generator().manual_seed(0)
    window, weight = torch.hann_window(n_fft), 10 ** (4 * torch.rand(frames, generator=random) - 2)
    spectrum = torch.fft.rfft(torch.randn(frames, n_fft, generator=random))
    framing = Framing(window, hop, frames, torch.zeros(1, 0), weight=weight)
    found = framing.trimmed(framing.synthesise(lambda first, last: spectrum[first:last], spectrum.abs()[None]))[0]
    samples = (frames - 1) * hop
    analysis = torch.zeros(frames, n_fft, samples + n_fft)
    for t in range(frames):
        analysis[t, :, t * hop : t * hop + n_fft] = window.diag()
    system = (weight.sqrt()[:, None, None] * analysis).flatten(0, 1)[:, n_fft // 2 : n_fft // 2 + samples]
    wanted = (weight.sqrt()[:, None] * torch.fft.irfft(spectrum, n=n_fft)).flatten()
    expected = torch.linalg.lstsq(system.double(), wanted.double()[:, None]).solution[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def strokes() -> Tensor:
    """Noise that begins at once and ends softly, twice a second, above a soft tone."""
    time = seconds(3.0)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(4))
    return 0.3 * noise * torch.exp(-12 * (time % 0.5)) + 0.003 * torch.sin(2 * math.pi * 700 * time)


def before_strokes_db(sound: Tensor) -> float:
    """The level of what is heard in the 20 ms before each stroke but the first."""
    starts = range(SAMPLE_RATE // 2, len(sound), SAMPLE_RATE // 2)
    rest = torch.stack([sound[start - 882 : start - 88] for start in starts])
    return float(10 * torch.log10(rest.square().mean()))


def test_less_is_heard_before_strokes(monkeypatch):
    sound = strokes()
    magnitude, bank = SPECTROGRAM.magnitude(SPECTROGRAM(sound[None, None])[0]), SPECTROGRAM.bank
    options = {"hop_length": HOP, "iterations": ITERATIONS["standard"], "bank": bank}
    weighted = griffin_lim(magnitude, **options)[0]
    monkeypatch.setattr(frame_weights, "POWER", 0.0)  # as Griffin & Lim do
    usual = griffin_lim(magnitude, **options)[0]
    assert before_strokes_db(weighted) < before_strokes_db(usual) - 2


@pytest.mark.parametrize("clip", ["guitar", "music_box", "ambient", "concerto_bach"])
def test_mels_are_nearer(clip, monkeypatch):
    target = Audio.load(EXAMPLES / f"{clip}.flac").waveform[:1, : 4 * SAMPLE_RATE // HOP * HOP]
    magnitude, bank = SPECTROGRAM.magnitude(SPECTROGRAM(target[None])[0]), SPECTROGRAM.bank

    def error_db() -> float:
        made = griffin_lim(magnitude, hop_length=HOP, iterations=ITERATIONS["standard"], bank=bank)
        return log_mel_error_db(target, made, SAMPLE_RATE)

    weighted = error_db()
    monkeypatch.setattr(frame_weights, "POWER", 0.0)  # as Griffin & Lim do
    assert weighted < error_db()


def test_soft_frames_count_more_whatever_the_level():
    target = stft(chord() + bursts()).abs().T[None]
    weight = frame_weights.frame_weights(target)
    assert weight[target[0].sum(1).argmax()] < 1.1 * weight.min()
    assert weight.max() > 30 * weight.min()
    torch.testing.assert_close(frame_weights.frame_weights(1e-3 * target), weight, atol=0, rtol=1e-4)


def test_silence_has_weights_too():
    silence = torch.zeros(1, 9, 1025)
    for target in (silence, silence.index_fill(1, torch.tensor([4]), 1e-20)):
        weight = frame_weights.frame_weights(target)
        assert weight.isfinite().all()
        assert (weight > 0).all()
