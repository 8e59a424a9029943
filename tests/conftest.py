"""Small seeded sounds for all tests: mono [1, samples] or stereo [2, samples], float32, at most half of full scale; and
for commands a checkpoint and clips."""

import os
import signal
from collections.abc import Callable, Iterator

# Before torch is imported: several processes of tests share the cores, and those that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from tiny_codec import save_tiny
from torch import Tensor

from audiovae.audio import Audio

# A shell's background jobs ignore Ctrl-C, and so does what they start: tests that press it want it answered.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SAMPLE_RATE = 44_100
pytest_plugins = ("tiny_training", "tiny_flow")


def tone(*, samples: int = 22_050, sample_rate: int = SAMPLE_RATE, frequency_hz: float = 440.0) -> Tensor:
    """A sine that fades in and out over a tenth of its length."""
    seconds = torch.arange(samples, dtype=torch.float64) / sample_rate
    fade = torch.minimum(torch.linspace(0, 10, samples), torch.linspace(10, 0, samples)).clamp(max=1)
    return (0.5 * fade * torch.sin(2 * torch.pi * frequency_hz * seconds))[None].float()


def sweep(*, samples: int = 22_050, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """A sine that rises linearly from 50 Hz to a quarter of the sample rate."""
    seconds = torch.arange(samples, dtype=torch.float64) / sample_rate
    rise = (sample_rate / 4 - 50) / (samples / sample_rate)
    return (0.5 * torch.sin(2 * torch.pi * (50 + rise * seconds / 2) * seconds))[None].float()


def click(*, samples: int = 2_205) -> Tensor:
    """Silence with one loud sample in the middle: 0.05 s at 44.1 kHz."""
    waveform = torch.zeros(1, samples)
    waveform[0, samples // 2] = 0.5
    return waveform


def silence(*, samples: int = 22_050) -> Tensor:
    """Digital zero."""
    return torch.zeros(1, samples)


def noise(*, samples: int = 22_050, channels: int = 1, seed: int = 0) -> Tensor:
    """White noise, uniform, independent between channels."""
    return torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def stereo(*, samples: int = 22_050) -> Tensor:
    """Two different tones, left and right, the right one softer."""
    return torch.cat([tone(samples=samples), 0.4 * tone(samples=samples, frequency_hz=660.0)])


SOUNDS = {"tone": tone, "sweep": sweep, "click": click, "silence": silence, "noise": noise, "stereo": stereo}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of torch, which is what a test needs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=SOUNDS, ids=str)
def sound(request: pytest.FixtureRequest) -> Tensor:
    """Each of the sounds in turn."""
    return SOUNDS[request.param]()


@pytest.fixture
def sounds() -> dict[str, Callable[..., Tensor]]:
    """The sounds by name, as functions: sounds["tone"](samples=4096)."""
    return SOUNDS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.wav and b.wav of one length, c.flac shorter, d.wav stereo at another rate, silence.wav."""
    folder = tmp_path_factory.mktemp("clips")
    Audio(tone(samples=12_000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=12_000), 44_100).save(folder / "b.wav")
    Audio(tone(samples=6_000, frequency_hz=880.0), 44_100).save(folder / "c.flac")
    Audio(stereo(samples=6_000), 22_050).save(folder / "d.wav")
    Audio(silence(samples=6_000), 44_100).save(folder / "silence.wav")
    return folder
