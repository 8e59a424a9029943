"""Phase reconstruction of silence, of extreme levels and sizes, and of the bins under bands."""

import math

import numba
import pytest
import torch
from phase_sounds import HOP, bursts, chord, stft
from torch import Tensor

from audiovae import compiled, looping
from audiovae.bank import Bank
from audiovae.config import SpectrogramConfig
from audiovae.griffin_lim import griffin_lim
from audiovae.spectrogram import Spectrogram, mean_error_db

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("iterations", [0, 5])
@pytest.mark.parametrize("frames", [1, 2, 30])
def test_silence_is_exactly_zero(iterations, frames):
    waveform = griffin_lim(torch.zeros(2, 1025, frames), hop_length=HOP, iterations=iterations)
    assert torch.equal(waveform, torch.zeros(2, (frames - 1) * HOP))


@pytest.mark.parametrize("scale", [1e-35, 1.0, 1e30])
@pytest.mark.parametrize("iterations", [0, 3])
def test_no_nan_with_silent_frames_and_extreme_levels(scale, iterations):
    magnitude = stft(chord(0.5)).abs()
    magnitude[:, 10:20] = 0
    magnitude[500:] = 0
    waveform = griffin_lim(scale * magnitude[None], hop_length=HOP, iterations=iterations)
    assert waveform.isfinite().all()
    assert (waveform[:, 13 * HOP : 17 * HOP] == 0).all()
    past = griffin_lim(magnitude[None], hop_length=HOP, iterations=0)[:, : 8 * HOP]
    continued = griffin_lim(0 * magnitude[None], hop_length=HOP, iterations=iterations, past=past)
    assert continued.isfinite().all()
    assert (continued[:, 9 * HOP :] == 0).all()


@pytest.mark.parametrize("frames", [2, 3])
def test_very_short_recordings_keep_their_level(frames):
    sound = chord(0.2)[: (frames - 1) * HOP]
    waveform = griffin_lim(stft(sound).abs()[None], hop_length=HOP, iterations=16)[0]
    assert 20 * math.log10(waveform.norm() / sound.norm()) == pytest.approx(0, abs=3)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 1025, 4), {"hop_length": 2048}, "n_fft 2048, one every hop_length 2048 samples, leave gaps"),
        ((1, 1025, 4), {"hop_length": 4096, "window": torch.ones(2048)}, "one every hop_length 4096 samples, leave"),
        ((1, 1025, 4), {"hop_length": 0}, "hop_length 0 must be at least 1"),
        ((1, 1, 4), {}, r"must have n_fft 0 \(1 bins\), at least 2"),
        ((1, 1025, 4), {"window": torch.ones(1024)}, r"window of 1024 samples must have n_fft 2048 \(1025 bins\)"),
        ((1, 1025, 0), {}, "1 channels and 0 frames"),
        ((0, 1025, 4), {}, "0 channels and 4 frames"),
        ((1, 1025, 4), {"iterations": -1}, "iterations -1 must not be negative"),
        ((1, 1025, 4), {"past": torch.zeros(1, 700)}, "past of 1 channels, 700 samples .* multiple of hop_length 512"),
        ((2, 1025, 4), {"past": torch.zeros(1, 512)}, "past of 1 channels, 512 samples must have 2 channels"),
        ((1, 1025, 4), {"past": torch.zeros(1, 2048)}, "at most 1536"),
        ((3, 1, 1025, 4), {"past": torch.zeros(1, 512)}, r"past of 1 channels, 512 samples must have 1 channels"),
        (
            (1, 1025, 4),
            {"bank": Bank(torch.eye(513))},
            "bank is of 513 bins, must be of 1025",
        ),
        ((1, 1025, 4), {"phase": torch.zeros(4, 1025)}, r"phase has shape \[4, 1025\], must have \[1025, 4\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        griffin_lim(torch.ones(shape), **{"hop_length": HOP, "iterations": 1, **options})


def test_magnitudes_with_a_gradient_are_those_without():
    magnitude = torch.rand(2, 1, 65, 6, generator=torch.Generator().manual_seed(0))
    plain = griffin_lim(magnitude, hop_length=32, iterations=2)
    assert torch.equal(griffin_lim(magnitude.clone().requires_grad_(), hop_length=32, iterations=2), plain)


BANDS = Spectrogram(SpectrogramConfig())


def from_bands(sound: Tensor, *, iterations: int, **options) -> Tensor:
    """By way of the inverted bands of a sound."""
    magnitude = BANDS.magnitude(BANDS(sound[None, None])[0])
    return griffin_lim(magnitude, hop_length=HOP, iterations=iterations, **options)[0]


def test_polar_loop_is_torchs_for_any_turns():
    magnitude = torch.rand(3, 1025, generator=torch.Generator().manual_seed(0))
    turns = torch.linspace(-2, 2, magnitude.numel()).view(magnitude.shape)
    spectrum = torch.empty(3, 1025, dtype=torch.complex64)
    compiled.polar(magnitude.numpy(), turns.numpy(), looping.pairs(spectrum))
    torch.testing.assert_close(spectrum, torch.polar(magnitude, 2 * math.pi * turns), atol=1e-5, rtol=0)


def test_a_bank_of_single_bins_changes_nothing():
    magnitude = stft(chord()).abs()[None]
    plain = griffin_lim(magnitude, hop_length=HOP, iterations=4)
    with_bank = griffin_lim(magnitude, hop_length=HOP, iterations=4, bank=Bank(torch.eye(1025)))
    assert (with_bank - plain).norm() < 2e-2 * plain.norm()


def test_bins_that_bands_leave_free_are_found_by_the_signal():
    """Noise in bands of many bins: what the inversion makes up, and holds fast, no signal has."""
    sound = bursts()
    held, free = from_bands(sound, iterations=16), from_bands(sound, iterations=16, bank=BANDS.bank)
    true = BANDS(sound[None, None])
    errors = [float(mean_error_db(BANDS(made[None, None]), true, BANDS.config)) for made in (held, free)]
    assert errors[1] < 0.85 * errors[0]


def test_bands_are_met_by_loops_and_tensors_alike(monkeypatch):
    sounds = torch.stack([chord() + bursts(), 0.3 * chord()])
    magnitude = BANDS.magnitude(BANDS(sounds[:, None])[:, 0])
    options = {"hop_length": HOP, "iterations": 4, "bank": BANDS.bank}
    looped = griffin_lim(magnitude, **options)
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    assert (griffin_lim(magnitude, **options) - looped).norm() < 3e-2 * looped.norm()


@pytest.mark.parametrize("by_loops", [True, False])
def test_silent_and_uncovered_bins_are_silent_with_a_bank(by_loops, monkeypatch):
    if not by_loops:
        monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    magnitude, bank = stft(chord(0.5)).abs(), torch.eye(1025)
    magnitude[:, 10:20] = 0
    bank[:, 500:] = 0
    bank = Bank(bank)
    for scale in (1e-35, 1.0, 1e30):
        waveform = griffin_lim(scale * magnitude[None], hop_length=HOP, iterations=3, bank=bank)
        assert waveform.isfinite().all()
        assert (waveform[:, 13 * HOP : 17 * HOP] == 0).all()
    assert (
        stft(griffin_lim(magnitude[None], hop_length=HOP, iterations=3, bank=bank)[0]).abs()[520:].max()
        < 0.01 * magnitude.max()
    )


def test_loops_compile_where_nothing_can_be_kept():
    """Numba refuses to cache what it has no folder for: here a function without a file, elsewhere a read-only home."""
    named: dict = {}
    exec(compile("def double(x): return 2 * x", "<nowhere>", "exec"), named)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(named["double"], cache=True)
    assert compiled.compile_loop(named["double"])(21) == 42
