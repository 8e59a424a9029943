"""The front end against librosa, torchaudio and known answers."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from audiovae.config import SpectrogramConfig
from audiovae.spectrogram import Spectrogram, amplitude, band_bank, hybrid_edges, magnitude_db, mean_error_db

CONFIG = SpectrogramConfig()
RATE = CONFIG.sample_rate
EXAMPLES = Path(__file__).parents[1] / "data" / "examples"


def music(seconds: float = 1.0) -> torch.Tensor:
    """A decaying chord with a noisy attack: partials, a transient and silence after it."""
    time = torch.arange(int(seconds * RATE)) / RATE
    chord = sum(torch.sin(2 * torch.pi * f * time) / n for n, f in enumerate((220.0, 277.2, 329.6, 880.0), 1))
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0)) * torch.exp(-40 * time)
    return (0.1 * (chord * torch.exp(-3 * time) + noise))[None, None]


def stft_magnitude(waveform: torch.Tensor) -> torch.Tensor:
    window = torch.hann_window(CONFIG.n_fft)
    stft = torch.stft(
        waveform[:, 0], CONFIG.n_fft, CONFIG.hop_length, window=window, pad_mode="constant", return_complex=True
    )
    return stft.abs()


def test_bands_are_those_of_librosas_stft():
    waveform = music()
    librosas = np.abs(librosa.stft(waveform[0, 0].numpy(), n_fft=2048, hop_length=512, pad_mode="constant"))
    spectrogram = Spectrogram(CONFIG)
    ours = spectrogram.denormalise(spectrogram(waveform))[0, 0]
    theirs = band_bank(CONFIG) @ torch.from_numpy(librosas) / 512
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)


def test_mel_bank_is_librosas_slaney_bank():
    config = SpectrogramConfig(bank="mel", n_bands=128)
    librosas = librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=128, fmin=0.0, fmax=22050.0)
    np.testing.assert_allclose(band_bank(config).numpy(), librosas, atol=1e-5)


@pytest.mark.parametrize("n_bands", [64, 128, 256, 512])
def test_hybrid_bands_are_never_narrower_than_a_bin(n_bands: int):
    edges = hybrid_edges(SpectrogramConfig(n_bands=n_bands))
    steps = np.diff(edges)
    assert len(edges) == n_bands + 2
    assert steps.min() >= 1 - 1e-9
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(1024, abs=1e-6)
    wide = steps > 1 + 1e-6
    # Above the first wide band, the spacing is a constant share of the frequency.
    ratio = steps[wide] / edges[:-1][wide]
    assert np.ptp(ratio) < 1e-9


def test_lowest_hybrid_bands_are_single_bins():
    bank = band_bank(CONFIG)
    torch.testing.assert_close(bank[:40, 1:41], torch.eye(40))


def test_every_band_has_weight_one_and_every_bin_is_heard():
    bank = band_bank(CONFIG)
    torch.testing.assert_close(bank.sum(1), torch.ones(256))
    assert (bank[:, 1:1024].sum(0) > 0).all()


def test_full_scale_sine_has_amplitude_one():
    frequency = 100 * RATE / CONFIG.n_fft  # on a bin
    time = torch.arange(RATE) / RATE
    spectrogram = Spectrogram(SpectrogramConfig(n_bands=512))
    bands = spectrogram.denormalise(spectrogram(torch.sin(2 * torch.pi * frequency * time)[None, None]))
    assert bands[0, 0, :, 40].max() == pytest.approx(1.0, abs=0.01)


def test_frames_are_one_more_than_whole_hops():
    spectrogram = Spectrogram(CONFIG)
    for samples in (1, 511, 512, 4096, 44100):
        assert spectrogram(torch.zeros(1, 1, samples)).shape[-1] == 1 + samples // 512


def test_context_replaces_centring():
    waveform = music()
    spectrogram = Spectrogram(CONFIG)
    padded = torch.nn.functional.pad(waveform, (1024, 1024))
    torch.testing.assert_close(spectrogram(waveform), spectrogram(padded, center=False))


def test_normalising_and_back_is_the_identity_for_what_is_audible():
    spectrogram = Spectrogram(CONFIG)
    bands = torch.logspace(-6, 0, 50)
    torch.testing.assert_close(spectrogram.denormalise(spectrogram.normalise(bands)), bands, rtol=1e-4, atol=1e-9)


def test_normalised_bands_are_the_stated_power_of_amplitudes():
    config = SpectrogramConfig(exponent=0.5, mean=0.2, std=2.0)
    assert float(Spectrogram(config).normalise(torch.tensor(0.16))) == pytest.approx((0.4 - 0.2) / 2)
    assert float(amplitude(torch.tensor(0.1), config)) == pytest.approx(0.16)
    assert float(amplitude(torch.tensor(-5.0), config)) == 0


def test_levels_are_decibels_below_full_scale_and_end_at_the_floor():
    spectrogram = Spectrogram(CONFIG)
    levels = magnitude_db(spectrogram.normalise(torch.tensor([1.0, 0.01, 0.0])), CONFIG)
    torch.testing.assert_close(levels, torch.tensor([0.0, -40.0, -100.0]), atol=0.02, rtol=0)
    assert float(mean_error_db(levels.new_zeros(3), levels.new_zeros(3), CONFIG)) == 0


def test_what_no_recording_holds_stays_finite_with_its_gradients():
    spectrogram = Spectrogram(CONFIG)
    wild = torch.tensor([-100.0, 0.0, 1e6], requires_grad=True)
    again = spectrogram.normalise(spectrogram.denormalise(wild))
    again.sum().backward()
    assert again.isfinite().all() and wild.grad is not None and wild.grad.isfinite().all()


def test_silence_stays_silence():
    spectrogram = Spectrogram(CONFIG)
    silent = spectrogram(torch.zeros(1, 2, 8192))
    assert spectrogram.magnitude(silent).abs().max() < 1e-3  # of 512 for full scale: below -110 dB


def test_magnitudes_have_the_bands_they_were_made_of():
    spectrogram = Spectrogram(CONFIG)
    given = spectrogram(music())
    again = spectrogram.normalise(spectrogram.to_bands(spectrogram.magnitude(given)))
    error_db = (magnitude_db(again, CONFIG) - magnitude_db(given, CONFIG)).abs()
    loud = magnitude_db(given, CONFIG) > -80
    assert error_db[loud].mean() < 0.5


@pytest.mark.parametrize("clip", ["orchestra_grieg", "piano_bach", "cello_beethoven"])
def test_inversion_of_real_music_is_better_from_hybrid_bands_than_from_mels(clip: str):
    samples, _ = soundfile.read(EXAMPLES / f"{clip}.flac", dtype="float32", always_2d=True)
    waveform = torch.from_numpy(samples[:, 0])[None, None]

    def convergence_db(config: SpectrogramConfig) -> float:
        truth = stft_magnitude(waveform)
        spectrogram = Spectrogram(config)
        estimate = spectrogram.magnitude(spectrogram(waveform))[:, 0]
        return float(20 * torch.log10((estimate - truth).norm() / truth.norm()))

    hybrid, mel = convergence_db(CONFIG), convergence_db(SpectrogramConfig(bank="mel"))
    assert hybrid < -22
    assert hybrid < mel


def test_too_many_bands_are_refused():
    with pytest.raises(ValueError, match="n_bands 1100 is more than the 1024 bins"):
        band_bank(SpectrogramConfig(n_bands=1100))


@pytest.mark.gpu
def test_on_cuda_bands_and_their_inversion_are_the_cpus():
    on_cpu, on_cuda = Spectrogram(CONFIG), Spectrogram(CONFIG).to("cuda")
    bands = on_cpu(music())
    # The small power magnifies rounding where a band is nearly silent.
    torch.testing.assert_close(on_cuda(music().cuda()).cpu(), bands, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(
        on_cuda.magnitude(bands[0].cuda()).cpu(), on_cpu.magnitude(bands[0]), atol=1e-3, rtol=1e-2
    )
