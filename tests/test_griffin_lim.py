"""Phase reconstruction: against librosa, torch and known answers."""

import math

import librosa
import numba
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from audiovae import compiled, looping
from audiovae.bank import Bank
from audiovae.config import SpectrogramConfig
from audiovae.framing import Framing
from audiovae.griffin_lim import griffin_lim
from audiovae.phase_gradients import integrate_phase
from audiovae.phase_refinement import ACCELERATED, FAST, PLAIN, Acceleration
from audiovae.spectrogram import Spectrogram, mean_error_db

SAMPLE_RATE, N_FFT, HOP = 44100, 2048, 512


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stft(waveform: Tensor, n_fft: int = N_FFT, hop_length: int = HOP) -> Tensor:
    window = torch.hann_window(n_fft)
    return torch.stft(waveform, n_fft, hop_length, window=window, center=True, pad_mode="constant", return_complex=True)


def convergence_db(waveform: Tensor, magnitude: Tensor) -> float:
    error = stft(waveform).abs() - magnitude
    return float(20 * torch.log10(error.norm() / magnitude.norm()))


def seconds(duration: float) -> Tensor:
    return torch.arange(int(duration * SAMPLE_RATE) // HOP * HOP) / SAMPLE_RATE


def chord(duration: float = 2.0) -> Tensor:
    """Three harmonic notes, struck anew every half second, decaying."""
    time = seconds(duration)
    decay = torch.exp(-6 * (time % 0.5))
    notes = [sum(torch.sin(2 * math.pi * k * f * time + k) / k for k in range(1, 12)) for f in (220.0, 277.2, 329.6)]
    return 0.1 * decay * sum(notes)


def bursts(duration: float = 2.0) -> Tensor:
    """Decaying noise, five times a second, with silence between."""
    time = seconds(duration)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(1))
    return 0.3 * noise * torch.exp(-40 * (time % 0.2)) * ((time % 0.2) < 0.15)


def vibrato(duration: float) -> Tensor:
    time = seconds(duration)
    wobble = 3 * torch.sin(2 * math.pi * 0.7 * time)
    return sum(0.1 / k * torch.sin(k * (2 * math.pi * 110 * time + 0.3 * wobble) + k) for k in range(1, 20))


SOUNDS = {"chord": chord, "bursts": bursts, "both": lambda: chord() + bursts()}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("iterations", [4, 32])
def test_closer_than_librosa_and_torchaudio_at_equal_iterations(sound, iterations):
    magnitude = stft(SOUNDS[sound]()).abs()
    librosas = librosa.griffinlim(
        magnitude.numpy(), n_iter=iterations, hop_length=HOP, n_fft=N_FFT, momentum=0.99, init="random"
    )
    torchaudios = torchaudio.transforms.GriffinLim(N_FFT, iterations, hop_length=HOP, power=1, momentum=0.99)(magnitude)
    ours = griffin_lim(magnitude[None], hop_length=HOP, iterations=iterations)[0]
    for theirs in (torch.from_numpy(librosas), torchaudios):
        assert convergence_db(ours, magnitude) <= convergence_db(theirs, magnitude) + 0.3


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
    ours = griffin_lim(magnitude[None], hop_length=hop_length, iterations=0, window=window, phase=2 * math.pi * angle)
    theirs = torch.istft(torch.polar(magnitude, 2 * math.pi * angle), N_FFT, hop_length, window=window, center=True)
    torch.testing.assert_close(ours[0], theirs, atol=1e-6, rtol=1e-4)


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

    On spectra, and not on signals as in the module, from a phase of the caller's.
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
    ours = griffin_lim(magnitude[None], hop_length=HOP, iterations=6, phase=phase, acceleration=acceleration)[0]
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


def test_channels_keep_their_levels_and_share_the_phase():
    source = chord() + bursts()
    left = stft(source).abs()
    waveform = griffin_lim(torch.stack([left, 0.25 * left]), hop_length=HOP, iterations=8)
    torch.testing.assert_close(waveform[1], 0.25 * waveform[0], atol=1e-5, rtol=1e-4)
    alone = griffin_lim(left[None], hop_length=HOP, iterations=8)[0]
    assert convergence_db(waveform[0], left) == pytest.approx(convergence_db(alone, left), abs=0.5)


def test_mono_sum_of_two_sources_has_the_sum_of_the_magnitudes():
    tone, noise = stft(chord()).abs(), stft(bursts()).abs()
    magnitude = torch.stack([0.9 * tone + 0.3 * noise, 0.2 * tone + 0.8 * noise])
    waveform = griffin_lim(magnitude, hop_length=HOP, iterations=16)
    apart = torch.cat([griffin_lim(row[None], hop_length=HOP, iterations=16) for row in magnitude])
    shared_db, apart_db = (convergence_db(both.sum(0), magnitude.sum(0)) for both in (waveform, apart))
    assert shared_db < -15
    assert shared_db < apart_db - 3
    for channel, target in zip(waveform, magnitude, strict=True):
        assert channel.norm() / waveform.norm() == pytest.approx(float(target.norm() / magnitude.norm()), rel=0.03)


def coherence(waveform: Tensor) -> float:
    left, right = stft(waveform)
    return float((left * right.conj()).sum().abs() / (left.norm() * right.norm()))


def test_width_is_kept_where_the_channels_differ_and_only_there():
    generator = torch.Generator().manual_seed(2)
    same, left, right = 0.1 * torch.randn(3, 2 * SAMPLE_RATE // HOP * HOP, generator=generator)
    for sound, least, most in ((torch.stack([same, 0.5 * same]), 0.999, 1.0), (torch.stack([left, right]), 0.0, 0.5)):
        waveform = griffin_lim(stft(sound).abs(), hop_length=HOP, iterations=16)
        assert least <= coherence(waveform) <= most + 1e-5
    assert convergence_db(waveform[0], stft(left).abs()) < -15  # noise is hard: -20 alone, -13 with one phase


def in_blocks(
    magnitude: Tensor, *, block: int, context: int, look_ahead: int, iterations: int
) -> tuple[Tensor, list[int]]:
    """A long recording as a caller makes it: each block sees some past, and some future that it doesn't emit."""
    frames, waveform, joins = magnitude.shape[2], magnitude.new_zeros(magnitude.shape[0], 0), []
    for start in range(0, frames - 1, block):
        stop, left = min(start + block, frames - 1), max(0, start - context)
        past = waveform[:, left * HOP :]
        made = griffin_lim(
            magnitude[:, :, left : stop + look_ahead + 1], hop_length=HOP, iterations=iterations, past=past
        )
        assert torch.equal(made[:, : past.shape[1]], past)
        joins += [start * HOP] if start else []
        waveform = torch.cat([waveform, made[:, past.shape[1] : (stop - left) * HOP]], 1)
    return waveform, joins


@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_join_without_a_seam(channels):
    sound = vibrato(6.0)
    sounds = torch.stack([sound, 0.3 * sound + 0.05 * chord(6.0)])[:channels]
    magnitude = stft(sounds).abs()
    block = 1 + (magnitude.shape[2] - 1) // 3
    waveform, joins = in_blocks(magnitude, block=block, context=8, look_ahead=32, iterations=16)
    assert waveform.shape == (channels, len(sound))
    assert len(joins) == 2
    made = stft(waveform).abs()
    error = (made - magnitude).norm(dim=1) / magnitude.norm(dim=1)
    curvature = waveform.diff(n=2).abs()
    for join in joins:
        frame = join // HOP
        near, around = slice(frame - 2, frame + 3), slice(frame - 60, frame - 4)
        assert (error[:, near].amax(1) <= 1.2 * error[:, around].amax(1)).all()
        assert (curvature[:, join - 4 : join + 40].amax(1) <= curvature[:, join - 8000 : join - 100].amax(1)).all()
        level = made[:, :, near].norm(dim=1) / magnitude[:, :, near].norm(dim=1)
        assert (20 * torch.log10(level)).abs().max() < 0.1


def test_continuation_ignores_what_the_magnitudes_say_about_the_past():
    magnitude = stft(chord(1.0)).abs()[None]
    past = griffin_lim(magnitude, hop_length=HOP, iterations=8)[:, : 20 * HOP]
    expected = griffin_lim(magnitude, hop_length=HOP, iterations=8, past=past)
    # The window of frame 17 ends two hops later, with frame 19; frame 16 is looked at for the frequencies of 17.
    magnitude[:, :, :16] = magnitude[:, :, :16].flip(2)
    assert torch.equal(griffin_lim(magnitude, hop_length=HOP, iterations=8, past=past), expected)


@pytest.mark.parametrize("hops", [1, 2, 39])
def test_past_of_any_number_of_hops_is_returned_exactly(hops):
    magnitude = stft(chord(1.0)).abs()[None, :, :40]
    past = chord(1.0)[None, : hops * HOP]
    waveform = griffin_lim(magnitude, hop_length=HOP, iterations=4, past=past)
    assert torch.equal(waveform[:, : hops * HOP], past)
    assert waveform.shape == (1, 39 * HOP)
    assert waveform.isfinite().all()


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
    assert errors[1] < 0.75 * errors[0]


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
    assert compiled._compiled(named["double"])(21) == 42
