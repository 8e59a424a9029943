"""Phase reconstruction: against librosa, torch and known answers."""

import inspect
import math

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from phase_sounds import HOP, N_FFT, SAMPLE_RATE, bursts, chord, convergence_db, seconds, stft

from audiovae import looping
from audiovae.framing import Framing
from audiovae.griffin_lim import griffin_lim
from audiovae.phase_gradients import integrate_phase
from audiovae.phase_refinement import ACCELERATED, FAST, PLAIN, Acceleration, Iterations, refined

pytestmark = pytest.mark.usefixtures("one_thread")


SOUNDS = {"chord": chord, "bursts": bursts, "both": lambda: chord() + bursts()}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("iterations", [4, 32])
def test_closer_than_librosa_and_torchaudio_at_equal_iterations(sound, iterations):
    """They begin at random: theirs is the mean of three beginnings."""
    magnitude = stft(SOUNDS[sound]()).abs()
    options = {"n_iter": iterations, "hop_length": HOP, "n_fft": N_FFT, "momentum": 0.99}
    transform = torchaudio.transforms.GriffinLim(N_FFT, iterations, hop_length=HOP, power=1, momentum=0.99)

    # Its name in librosa 1.0, which asks for Python 3.12, and before.
    seeded = "rng" if "rng" in inspect.signature(librosa.griffinlim).parameters else "random_state"

    def librosas(seed: int) -> torch.Tensor:
        return torch.from_numpy(librosa.griffinlim(magnitude.numpy(), init="random", **{seeded: seed}, **options))

    def torchaudios(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return transform(magnitude)

    ours = convergence_db(griffin_lim(magnitude[None], hop_length=HOP, iterations=iterations)[0], magnitude)
    for theirs in (librosas, torchaudios):
        assert ours < sum(convergence_db(theirs(seed), magnitude) for seed in range(3)) / 3


def test_iterations_help_and_acceleration_helps_more():
    magnitude = stft(chord() + bursts()).abs()

    def reached(iterations, acceleration):
        waveform = griffin_lim(magnitude[None], hop_length=HOP, iterations=iterations, acceleration=acceleration)
        return convergence_db(waveform[0], magnitude)

    start, plain, fast, accelerated = (
        reached(16 * (i > 0), a) for i, a in enumerate([PLAIN, PLAIN, FAST, ACCELERATED])
    )
    assert accelerated < fast < plain < start


def test_start_is_nearly_right_for_a_steady_tone():
    tone = 0.5 * torch.sin(2 * math.pi * 1234.5 * seconds(1.0))
    magnitude = stft(tone).abs()
    waveform = griffin_lim(magnitude[None], hop_length=HOP, iterations=0)[0]
    assert convergence_db(waveform, magnitude) < -30
    # Integrating the phase steps keeps the frequency: 1 s of them would drift by a cycle for an error of 1 Hz.
    middle = waveform[8192:-8192].double()
    spectrum = torch.fft.rfft(middle * torch.hann_window(len(middle), dtype=torch.float64), n=2**20).abs()
    assert int(spectrum.argmax()) * SAMPLE_RATE / 2**20 == pytest.approx(1234.5, abs=0.5)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(2048, 512), (512, 64), (400, 80), (8, 2)])
def test_framing_is_that_of_torch_and_librosa(n_fft, hop_length):
    waveform = chord(1.5)[: 100 * hop_length]
    expected = stft(waveform, n_fft, hop_length)
    frames = Framing(torch.hann_window(n_fft), hop_length, 101, torch.zeros(1, 0))
    padded = torch.nn.functional.pad(waveform, (n_fft // 2, n_fft // 2))
    spectrum = frames.analyse(padded)(0, 101)
    torch.testing.assert_close(spectrum, expected.T, atol=1e-4, rtol=1e-4)
    librosa_spectrum = librosa.stft(waveform.numpy(), n_fft=n_fft, hop_length=hop_length, pad_mode="constant")
    np.testing.assert_allclose(spectrum.T.numpy(), librosa_spectrum, atol=1e-4, rtol=1e-4)
    inverse = frames.synthesise(lambda first, last: spectrum[first:last], spectrum.abs()[None])
    torch.testing.assert_close(inverse[0], padded, atol=1e-5, rtol=1e-4)


WINDOWS = {
    "hann": (torch.hann_window(N_FFT), HOP),
    "hamming, hop no divisor": (torch.hamming_window(N_FFT), 300),
    "sine, half overlap": (torch.hann_window(N_FFT).sqrt(), 1024),
    "short": (torch.nn.functional.pad(torch.hann_window(1024), (512, 512)), 256),
    "rectangle without overlap": (torch.ones(N_FFT), N_FFT),
}


@pytest.mark.parametrize("by_loops", [True, False])
@pytest.mark.parametrize("name", WINDOWS)
def test_inconsistent_spectrum_is_inverted_as_torch_does(name, by_loops, monkeypatch):
    if not by_loops:
        monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    window, hop_length = WINDOWS[name]
    magnitude, angle = torch.rand(2, 1025, 20, generator=torch.Generator().manual_seed(0))
    spectrum = torch.polar(magnitude, 2 * math.pi * angle)
    framing, given = Framing(window, hop_length, 20, torch.zeros(1, 0)), spectrum.T.contiguous()
    ours = framing.synthesise(lambda first, last: given[first:last], magnitude.T.contiguous()[None])
    theirs = torch.istft(spectrum, N_FFT, hop_length, window=window, center=True)
    torch.testing.assert_close(framing.trimmed(ours)[0], theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["hamming, hop no divisor", "sine, half overlap", "short"])
def test_other_windows_converge_too(name):
    window, hop_length = WINDOWS[name]
    magnitude = torch.stft(chord(1.0), N_FFT, hop_length, window=window, pad_mode="constant", return_complex=True).abs()
    reached = []
    for iterations in (0, 16):
        waveform = griffin_lim(magnitude[None], hop_length=hop_length, iterations=iterations, window=window)[0]
        made = torch.stft(waveform, N_FFT, hop_length, window=window, pad_mode="constant", return_complex=True).abs()
        reached.append(float(20 * torch.log10((made - magnitude).norm() / magnitude.norm())))
    assert reached[1] < min(reached[0], -10)


@pytest.mark.parametrize("acceleration", [PLAIN, FAST, ACCELERATED, Acceleration(0.3, 0.7, 1.1)])
def test_is_the_algorithm_as_the_papers_write_it(acceleration):
    """t_n = (1 - gamma) d_(n-1) + gamma P_C1 P_C2 c_(n-1), c_n = t_n + alpha (t_n - t_(n-1)), d_n = t_n + beta (...).

    On spectra, and not on signals as in the module, from a phase of the caller's; all frames counted alike.
    """
    magnitude = stft(chord(0.5)).abs()
    phase = 2 * math.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(3))
    window = torch.hann_window(N_FFT)

    def projected(spectrum):
        return torch.istft(torch.polar(magnitude, spectrum.angle()), N_FFT, HOP, window=window)

    c = t = d = stft(projected(torch.polar(magnitude, phase)))
    for _ in range(5):
        t, t_before = (1 - acceleration.gamma) * d + acceleration.gamma * stft(projected(c)), t
        c, d = t + acceleration.alpha * (t - t_before), t + acceleration.beta * (t - t_before)
    expected = projected(c)
    framing, target = Framing(window, HOP, magnitude.shape[1], torch.zeros(1, 0)), magnitude.T.contiguous()[None]
    source = refined(framing, torch.polar(target[0], phase.T.contiguous()), target, Iterations(6), acceleration)
    ours = framing.trimmed(framing.synthesise(source, target))[0]
    assert (ours - expected).norm() < 1e-2 * expected.norm()


def test_the_true_phase_is_kept():
    sound = chord(1.0) + bursts(1.0)
    spectrum = stft(sound)
    for iterations in (0, 5):
        waveform = griffin_lim(spectrum.abs()[None], hop_length=HOP, iterations=iterations, phase=spectrum.angle())
        torch.testing.assert_close(waveform[0], sound, atol=1e-4, rtol=1e-3)


def test_loops_and_tensors_give_the_same(monkeypatch):
    magnitude = torch.stack([stft(chord() + bursts()).abs(), stft(0.3 * chord()).abs()])
    past = griffin_lim(magnitude, hop_length=HOP, iterations=4)[:, : 20 * HOP]
    options = {"hop_length": HOP, "iterations": 4}
    looped = [griffin_lim(magnitude, past=known, **options) for known in (None, past)]
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    for known, expected in zip((None, past), looped, strict=True):
        waveform = griffin_lim(magnitude, past=known, **options)
        assert (waveform - expected).norm() < 2e-2 * expected.norm()


def test_start_is_the_same_by_loops_tensors_and_in_blocks(monkeypatch):
    magnitude = stft(chord() + bursts()).abs().T.contiguous()
    options = {"hop_length": HOP, "first": 0, "before": None}
    whole = integrate_phase(magnitude, block_frames=1000, **options)
    assert torch.equal(whole, integrate_phase(magnitude, block_frames=7, **options))
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    both = integrate_phase(torch.stack([magnitude, magnitude.flip(0)]), block_frames=1000, **options)
    difference = both[0] - whole
    assert ((difference - difference.round()).abs() * magnitude).sum() < 1e-3 * magnitude.sum()


@pytest.mark.parametrize("by_loops", [True, False])
def test_recordings_know_nothing_of_each_other(by_loops, monkeypatch):
    if not by_loops:
        monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    sounds = (chord(1.0), 1e-3 * bursts(1.0), 0 * chord(1.0))
    magnitude = torch.stack([stft(torch.stack([sound, 0.5 * sound])).abs() for sound in sounds])
    together = griffin_lim(magnitude, hop_length=HOP, iterations=3)
    assert together.shape == (3, 2, len(sounds[0]))
    for waveform, alone in zip(together, magnitude, strict=True):
        expected = griffin_lim(alone, hop_length=HOP, iterations=3)
        torch.testing.assert_close(waveform, expected, atol=1e-3 * float(expected.abs().max()) + 1e-12, rtol=1e-3)
    past = together[..., : 12 * HOP]
    continued = griffin_lim(magnitude, hop_length=HOP, iterations=3, past=past)
    assert torch.equal(continued[..., : 12 * HOP], past)


@pytest.mark.parametrize(("n_fft", "hop_length", "frames"), [(2048, 512, 40), (512, 64, 7), (400, 80, 300), (4, 1, 9)])
def test_length(n_fft, hop_length, frames):
    magnitude = torch.rand(2, n_fft // 2 + 1, frames, generator=torch.Generator().manual_seed(0))
    waveform = griffin_lim(magnitude, hop_length=hop_length, iterations=2)
    assert waveform.shape == (2, (frames - 1) * hop_length)
    assert waveform.dtype == torch.float32
    assert waveform.isfinite().all()


def test_same_waveform_every_time():
    magnitude = stft(chord() + bursts()).abs()[None]
    first, again = (griffin_lim(magnitude, hop_length=HOP, iterations=3) for _ in range(2))
    assert torch.equal(first, again)


def test_input_is_left_alone_and_level_carries_over():
    magnitude = stft(chord(0.5)).abs()[None]
    kept = magnitude.clone()
    waveform = griffin_lim(magnitude, hop_length=HOP, iterations=3)
    assert torch.equal(magnitude, kept)
    torch.testing.assert_close(griffin_lim(2.0**-30 * magnitude, hop_length=HOP, iterations=3) * 2.0**30, waveform)
