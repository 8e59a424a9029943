import pytest
import torch

from audiovae.config import SpectrogramConfig
from audiovae.evaluation.tones import Tone
from audiovae.spectrogram import Spectrogram, band_centres_hz
from audiovae.transposition import transpose

CONFIG = SpectrogramConfig()
RATE = CONFIG.sample_rate


def sound(pitch_hz: float) -> torch.Tensor:
    """Spectrogram of a tone whose spectrum moves with its pitch, as a transposed one's does."""
    octaves = float(torch.tensor(pitch_hz).log2())
    tone = Tone(
        octaves, slope_db=-6.0, formant_octaves=octaves + 1.5, even_db=0.0, attack_octaves=-6.0, decay_octaves=2.0
    )
    return Spectrogram(CONFIG)(tone.waveform(RATE)[None])[0, 0, :, 10:-10]


def constant(semitones: float, spectrogram: torch.Tensor) -> torch.Tensor:
    return torch.full((spectrogram.shape[-1],), float(semitones))


@pytest.mark.parametrize("semitones", [-7, -2.5, 3, 9])
def test_a_transposed_tone_is_the_tone_of_that_pitch(semitones: float) -> None:
    low, high = sound(330.0), sound(330.0 * 2 ** (semitones / 12))
    audible = high > high.max() - 1.5  # 31 dB under the loudest
    untouched = (low - high)[audible].abs().mean()
    made = (transpose(low, constant(semitones, low), CONFIG) - high)[audible].abs().mean()
    assert made < 0.3 * untouched


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_nothing_to_transpose_leaves_every_number() -> None:
    spectrogram = torch.randn(2, 1, CONFIG.n_bands, 7)
    assert torch.equal(transpose(spectrogram, torch.zeros(7), CONFIG), spectrogram)
    for bands in (256, 512):  # so many mels are narrower than bins, and some hold none
        mels, spectrogram = SpectrogramConfig(bank="mel", n_bands=bands), torch.randn(bands, 7)
        assert torch.equal(transpose(spectrogram, torch.zeros(7), mels), spectrogram)


def test_each_frame_has_its_own_interval() -> None:
    spectrogram = torch.randn(CONFIG.n_bands, 2).repeat_interleave(3, dim=1)[:, :5]
    semitones = torch.tensor([0.0, 5.0, -5.0, 0.0, 2.0])
    together = transpose(spectrogram, semitones, CONFIG)
    for frame in range(5):
        alone = transpose(spectrogram[:, frame : frame + 1], semitones[frame : frame + 1], CONFIG)
        assert torch.equal(together[:, frame : frame + 1], alone)


def test_an_absurd_interval_stays_finite() -> None:
    spectrogram = torch.randn(CONFIG.n_bands, 3)
    made = transpose(spectrogram, torch.tensor([1200.0, -1200.0, 120.0]), CONFIG)
    assert made.isfinite().all()
    assert torch.equal(made[:, 1], spectrogram[-1:, 1].expand(CONFIG.n_bands))


def test_band_centres_rise_over_the_whole_range() -> None:
    centres = band_centres_hz(CONFIG)
    assert (centres.diff() > 0).all()
    assert centres[0] < 30 and centres[-1] > 21_000
    mel = band_centres_hz(SpectrogramConfig(bank="mel"))
    assert (mel.diff() > 0).all() and mel.isfinite().all()
