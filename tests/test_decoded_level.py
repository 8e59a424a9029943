"""The level that a long stream begins with, beside that of all of it."""

import math

import pytest
import torch
from conftest import noise, tone
from tiny_codec import save_tiny
from torch import Tensor

from audiovae import decoded_level
from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.config import SpectrogramConfig
from audiovae.decoded_level import estimated_level_db, level_db_of
from audiovae.level import ABSOLUTE_GATE_DB
from audiovae.spectrogram import Spectrogram


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("level") / "tiny.safetensors"), device="cpu")


def true_level_db(codec: Codec, mean: Tensor) -> float:
    whole = [codec.spectrogram.magnitude(piece) for piece in codec.spectrogram_chunks(mean)]
    return level_db_of(whole, codec.spectrogram)


def pieces(seconds: float) -> Tensor:
    """Noise and tones by turns, each a second, of levels that differ by up to 30 dB."""
    generator = torch.Generator().manual_seed(0)
    sounds = []
    for second in range(round(seconds)):
        gain = 10 ** (-1.5 * float(torch.rand((), generator=generator)))
        sound = (
            noise(samples=44100, seed=second) if second % 3 else tone(samples=44100, frequency_hz=110.0 + 40 * second)
        )
        sounds.append(gain * sound)
    return torch.cat(sounds, dim=1)


@pytest.mark.parametrize("channels", [1, 2])
def test_estimate_is_near_the_level_of_all(codec: Codec, channels: int):
    waveform = torch.cat([pieces(50.0), 0.2 * pieces(50.0).flip(1)])[:channels]
    mean = codec.encode(Audio(waveform, 44100)).mean
    estimate = estimated_level_db(mean, codec.checkpoint.model, codec.spectrogram)
    assert estimate == pytest.approx(true_level_db(codec, mean), abs=0.5)


def test_pauses_do_not_lower_the_estimate(codec: Codec):
    loud = codec.encode(Audio(pieces(20.0), 44100)).mean
    quiet = codec.encode(Audio(torch.cat([pieces(10.0), torch.zeros(1, 10 * 44100)], dim=1), 44100)).mean
    mean = torch.cat([loud, quiet], dim=2)
    estimate = estimated_level_db(mean, codec.checkpoint.model, codec.spectrogram)
    assert estimate == pytest.approx(true_level_db(codec, mean), abs=0.5)


def test_estimate_of_the_same_latents_is_the_same(codec: Codec):
    mean = codec.encode(Audio(pieces(30.0), 44100)).mean
    first, second = (estimated_level_db(mean, codec.checkpoint.model, codec.spectrogram) for _ in range(2))
    assert first == second


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mels_that_hold_no_bin_count_for_nothing():
    widths = decoded_level._widths(Spectrogram(SpectrogramConfig(bank="mel", n_bands=512)))
    assert widths.isfinite().all() and (widths == 0).any()


def test_a_decoder_that_says_nothing_has_the_gate_as_its_level(codec: Codec):
    mean = torch.zeros(1, codec.config.model.latent_channels, 300)
    assert level_db_of([torch.zeros(1, 1025, 32)], codec.spectrogram) == ABSOLUTE_GATE_DB
    assert math.isfinite(estimated_level_db(mean, codec.checkpoint.model, codec.spectrogram))
