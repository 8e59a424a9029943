"""Griffin-Lim's iterations on low bins at a part of the sample rate."""

import math
from pathlib import Path

import pytest
import torch
from phase_sounds import HOP, N_FFT, SAMPLE_RATE, bursts, chord, in_blocks, seconds, stft
from torch import Tensor

from audiovae import looping
from audiovae.audio import Audio
from audiovae.bank import Bank
from audiovae.codec import ITERATIONS
from audiovae.config import SpectrogramConfig
from audiovae.evaluation.reconstruction import log_mel_error_db, spectral_convergence_db
from audiovae.framing import Framing
from audiovae.griffin_lim import griffin_lim
from audiovae.phase_refinement import ACCELERATED, Iterations, refined
from audiovae.spectrogram import Spectrogram

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
LOW_FIRST = Iterations(1, quarter=4, eighth=16)
SPECTROGRAM = Spectrogram(SpectrogramConfig())


def framing(sound: Tensor, *, past: Tensor | None = None, bank: Bank | None = None) -> Framing:
    frames = len(sound) // HOP + 1
    return Framing(torch.hann_window(N_FFT), HOP, frames, torch.zeros(1, 0) if past is None else past, bank)


def low_tones(duration: float) -> Tensor:
    """Below an eighth of the Nyquist frequency, 2756 Hz."""
    time = seconds(duration)
    return sum(0.1 * torch.sin(2 * math.pi * f * time + f) * torch.exp(-3 * (time % 0.5)) for f in (110, 523.3, 1900))


@pytest.mark.parametrize("divisor", [4, 8])
def test_at_a_lower_rate_spectra_are_the_low_bins(divisor):
    sound = low_tones(1.0)
    whole, low = framing(sound), framing(sound).at_rate(divisor)
    padded = torch.nn.functional.pad(sound, (N_FFT // 2, N_FFT // 2))
    expected = whole.whole(whole.analyse(padded))
    found = low.whole(low.analyse((divisor * padded[::divisor]).contiguous()))
    assert found.shape == (len(expected), 1024 // divisor + 1)
    assert (found - expected[:, : found.shape[1]]).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("divisor", [4, 8])
def test_a_past_goes_along_to_the_lower_rate(divisor):
    sound, known = low_tones(1.0), 20 * HOP
    low = framing(sound, past=sound[None, :known]).at_rate(divisor)
    expected = divisor * sound[:known:divisor]
    assert low.past.shape == (1, len(expected))
    assert (low.past[0] - expected).norm() < 2e-2 * expected.norm()
    assert (low.past[0] - expected)[-8:].abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("with_bank", [False, True])
@pytest.mark.parametrize("clip", ["guitar", "orchestra_grieg", "cello_beethoven", "music_box"])
def test_low_bins_first_is_nearer_for_as_much_work(clip, with_bank):
    target = Audio.load(EXAMPLES / f"{clip}.flac").waveform[:1, : 3 * SAMPLE_RATE // HOP * HOP]
    magnitude, bank = stft(target[0]).abs()[None], None
    if with_bank:
        magnitude, bank = SPECTROGRAM.magnitude(SPECTROGRAM(target[None])[0]), SPECTROGRAM.bank

    def errors_db(iterations: int | Iterations) -> tuple[float, float]:
        made = griffin_lim(magnitude, hop_length=HOP, iterations=iterations, bank=bank)
        return log_mel_error_db(target, made, SAMPLE_RATE), spectral_convergence_db(target, made)

    (log_mel, convergence), (full_log_mel, full_convergence) = errors_db(LOW_FIRST), errors_db(4)
    assert log_mel < 0.95 * full_log_mel
    assert convergence < full_convergence


def test_only_low_bins_are_refined_at_lower_rates():
    sound = chord() + bursts()
    magnitude = stft(sound).abs().T.contiguous()[None]
    random = 2 * math.pi * torch.rand(magnitude[0].shape, generator=torch.Generator().manual_seed(0))
    given = torch.polar(magnitude[0], random)
    whole = framing(sound)
    for iterations, bins in ((Iterations(0, eighth=4), 128), (Iterations(0, quarter=4), 256)):
        source = refined(whole, given.clone(), magnitude, iterations, ACCELERATED)
        found = whole.whole(source)
        assert torch.equal(found[:, bins:], given[:, bins:])
        low = stft(whole.trimmed(whole.synthesise(source, magnitude))[0])[: bins - 16].abs()
        before = stft(whole.trimmed(whole.synthesise(lambda a, b: given[a:b], magnitude))[0])[: bins - 16].abs()
        wanted = magnitude[0].T[: bins - 16]
        assert (low - wanted).norm() < 0.5 * (before - wanted).norm()


def test_the_true_phase_is_kept_at_lower_rates():
    sound = low_tones(1.0)
    spectrum = stft(sound)
    waveform = griffin_lim(spectrum.abs()[None], hop_length=HOP, iterations=LOW_FIRST, phase=spectrum.angle())
    assert (waveform[0] - sound).norm() < 1e-2 * sound.norm()


@pytest.mark.parametrize("with_bank", [False, True])
def test_loops_and_tensors_give_the_same(with_bank, monkeypatch):
    sounds = torch.stack([chord() + bursts(), 0.3 * chord()])
    magnitude, options = stft(sounds).abs(), {"hop_length": HOP, "iterations": LOW_FIRST}
    if with_bank:
        magnitude, options["bank"] = SPECTROGRAM.magnitude(SPECTROGRAM(sounds[:, None])[:, 0]), SPECTROGRAM.bank
    past = griffin_lim(magnitude, **options)[:, : 20 * HOP]
    looped = [griffin_lim(magnitude, past=known, **options) for known in (None, past)]
    monkeypatch.setattr(looping, "LOOPING_DEVICES", set())
    for known, expected in zip((None, past), looped, strict=True):
        assert (griffin_lim(magnitude, past=known, **options) - expected).norm() < 3e-2 * expected.norm()


@pytest.mark.parametrize(("n_fft", "hop_length"), [(400, 100), (2048, 300), (64, 16), (8, 2), (4, 1)])
def test_where_frames_fall_between_samples_only_full_iterations_are_made(n_fft, hop_length):
    magnitude = torch.rand(1, n_fft // 2 + 1, 30, generator=torch.Generator().manual_seed(0))
    made, plain = (
        griffin_lim(magnitude, hop_length=hop_length, iterations=iterations)
        for iterations in (Iterations(2, quarter=0, eighth=4), 2)
    )
    assert torch.equal(made, plain)


@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_join_as_well_as_with_full_iterations(channels):
    sound = chord(6.0) + 0.1 * bursts(6.0)
    magnitude = stft(torch.stack([sound, 0.3 * sound])[:channels]).abs()
    errors = {}
    for iterations in (4, LOW_FIRST):
        waveform, joins = in_blocks(magnitude, block=170, context=8, look_ahead=32, iterations=iterations)
        assert len(joins) == 3
        error = (stft(waveform).abs() - magnitude).square()
        near = torch.cat([error[..., join // HOP - 4 : join // HOP + 5] for join in joins], dim=-1)
        errors[iterations] = float(near.sum())
    assert errors[LOW_FIRST] < errors[4]


def test_silence_is_exactly_zero_at_lower_rates():
    assert not griffin_lim(torch.zeros(2, 1025, 30), hop_length=HOP, iterations=ITERATIONS["standard"]).any()


def test_bands_that_reach_beyond_low_bins_are_left_out():
    bank = SPECTROGRAM.bank.of_low_bins(129)
    full = SPECTROGRAM.bank.filters
    assert torch.equal(bank.filters, full[: len(bank.filters), :129])
    assert full[len(bank.filters), 129:].any()
    with pytest.raises(ValueError, match="must have at least 2"):
        SPECTROGRAM.bank.of_low_bins(2)


def test_wide_bands_leave_no_hole_where_low_bins_end():
    centres = torch.arange(0, 1025, 64)
    bank = Bank((1 - (torch.arange(1025) - centres[:, None]).abs() / 64).clamp(min=0))
    noise = 0.1 * torch.randn(HOP * 100, generator=torch.Generator().manual_seed(0))
    magnitude = bank.inverted(bank.of_magnitudes(stft(noise).abs().T)[None].mT)
    made = stft(griffin_lim(magnitude, hop_length=HOP, iterations=LOW_FIRST, bank=bank)[0]).abs()
    level_db = 20 * torch.log10(made.mean(1) / stft(noise).abs().mean(1))
    assert level_db.unfold(0, 8, 4).mean(1).abs().max() < 2.5  # it is 1.2 with full iterations alone


def test_iterations_are_split():
    best = Iterations(16, quarter=64, eighth=4)
    assert best.at_most(8) == Iterations(8, 8, 4)
    assert best.without(best.at_most(8)) == Iterations(8, 56, 0)
