"""A tiny model's runs on synthetic sounds: fixtures, and what compares them."""

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from commands import work
from conftest import noise, tone
from safetensors import safe_open
from safetensors.torch import load_file

from audiovae.audio import Audio
from audiovae.checkpoint import Facts
from audiovae.config import Config
from audiovae.training import components, loop, validation
from audiovae.training.data import Cache, open_cache
from audiovae.training.loop import Progress, Trainer
from audiovae.training.segments import Segment, Segments

TINY = Path(components.__file__).parents[1] / "configs" / "tiny.toml"
SHORT = ("training.steps=20", "training.validate_every=10")
LIGHT = (
    (components, "PATCHES", 300),
    (validation, "SEGMENTS", 8),
    (loop, "PRIOR_SEGMENTS", 8),
    (loop, "LAST_PRIOR_SEGMENTS", 8),
    (validation, "EXAMPLE_ITERATIONS", 1),
)
PLAYING = ("training.adversarial_weight=0.5", "training.adversarial_start_step=12",
           "training.adversarial_warmup_steps=4")  # fmt: skip
Watch = Callable[[Progress], None]


def config_of(*overrides: str) -> Config:
    return Config.from_toml(TINY, [*SHORT, *overrides])


@pytest.fixture(scope="module")
def light() -> Iterator[None]:
    """One thread, and few segments for what is not a training step: the tests wait for neither."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in LIGHT:
            patch.setattr(module, name, value)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sounds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plucked chords with some noise, which five files share in pitch and not in rhythm."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for number in range(5):
        waveform = 0.01 * random.standard_normal(66_150)
        for onset in random.integers(0, 60_000, 8):
            time = np.arange(66_150 - onset) / 44_100
            waveform[onset:] += 0.2 * np.exp(-8 * time) * np.sin(2 * np.pi * random.choice([220, 330, 550, 880]) * time)
        soundfile.write(folder / f"{number}.wav", waveform, 44_100, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def cache(sounds_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    config = config_of("data.validation_share=0.3")
    cache = open_cache(sounds_folder, tmp_path_factory.mktemp("cache"), config)
    assert cache.split("valid") and cache.split("train")
    return cache


def trainer_of(cache: Cache, run: Path, *overrides: str, device: str = "cpu") -> Trainer:
    run.mkdir(exist_ok=True)
    return Trainer(config_of(*overrides), cache, run, device=device, facts=Facts(data="synthetic"))


@pytest.fixture(scope="module")
def whole_run(light: None, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole")
    trainer_of(cache, run).train()
    return run


@pytest.fixture(scope="module")
def played(light: None, cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a discriminator."""
    run = tmp_path_factory.mktemp("played")
    trainer_of(cache, run, *PLAYING).train()
    return run


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, average, moments, position; the model with its prior; every row of the log."""
    for name in ("state.safetensors", "model.safetensors"):
        # Not the files' bytes: safetensors writes the entries of a header in any order.
        with safe_open(one / name, "pt") as first, safe_open(other / name, "pt") as second:
            assert first.metadata() == second.metadata()
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()


def raising(error: BaseException, *, at: int) -> Watch:
    def watch(progress: Progress) -> None:
        if progress.step == at:
            raise error

    return watch


def poison(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Makes one segment of each of these steps NaN."""
    draw, size = Segments.__getitem__, config_of().training.batch_size

    def poisoned(segments: Segments, index: int) -> Segment:
        segment = draw(segments, index)
        bad = segments.augment and index // size in steps and index % size == 1
        return segment._replace(gain=segment.gain * math.nan) if bad else segment

    monkeypatch.setattr(Segments, "__getitem__", poisoned)


PROCESS = '''
"""One process of a run, as a person would start it: python, or torchrun."""
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from audiovae.checkpoint import Facts
from audiovae.config import Config
from audiovae.training import components, loop, validation
from audiovae.training.data import open_cache
from audiovae.training.loop import Trainer

torch.set_num_threads(1)
components.PATCHES, validation.SEGMENTS, validation.EXAMPLE_ITERATIONS = 300, 8, 1
loop.PRIOR_SEGMENTS = loop.LAST_PRIOR_SEGMENTS = 8
sounds, cache_folder, run, config = sys.argv[1:]
config = Config.from_json(config, "test")
cache = open_cache(Path(sounds), Path(cache_folder), config)
Path(run).mkdir(exist_ok=True)
trainer = Trainer(config, cache, Path(run), device="cpu", facts=Facts(data="synthetic"))
trainer.train(lambda progress: print(progress.step, flush=True))
weights = {name: tensor.contiguous() for name, tensor in trainer.vae.state_dict().items()}
save_file(weights, Path(run, f"weights-{trainer.accelerator.process_index}.safetensors"))
trainer.accelerator.end_training()
'''


def started_run(
    command: list[str], folder: Path, sounds: Path, cache: Cache, run: Path, *overrides: str
) -> subprocess.Popen[str]:
    script = folder / "process.py"
    script.write_text(PROCESS)
    config = config_of("data.validation_share=0.3", *overrides).model_dump_json()
    arguments = [str(script), str(sounds), str(cache.audio.parent), str(run), config]
    # The package that is tested here, wherever the interpreter was told to find it.
    environment = os.environ | {"PYTHONPATH": str(TINY.parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of eight steps for the model of ``save_tiny``, and little to validate on."""
    monkeypatch.setattr(validation, "SEGMENTS", 4)
    monkeypatch.setattr(loop, "PRIOR_SEGMENTS", 16)
    monkeypatch.setattr(loop, "LAST_PRIOR_SEGMENTS", 16)
    path = tmp_path / "quick.toml"
    path.write_text(
        "[spectrogram]\nn_bands = 64\n"
        "[model]\nlatent_channels = 8\nchannels = [8, 8, 8]\nband_strides = [4, 2, 2]\n"
        "encoder_blocks = [0, 1, 1]\ndecoder_blocks = [1, 1, 1]\nbottleneck_width = 16\nbottleneck_stride = 1\n"
        "[data]\nsegment_latent_frames = 4\nworkers = 0\nvalidation_share = 0.0\n"
        "[training]\nsteps = 8\nbatch_size = 2\nwarmup_steps = 1\nbeta_warmup_steps = 4\n"
        "log_every = 2\nvalidate_every = 8\ncheckpoint_every = 2\n"
    )
    return path


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Two recordings to train on, and one that is none."""
    folder = tmp_path / "music"
    folder.mkdir()
    Audio(tone(samples=60_000), 44_100).save(folder / "a.wav")
    Audio(noise(samples=60_000), 44_100).save(folder / "b.wav")
    (folder / "text.wav").write_text("no audio")
    return folder


def trained(quick: Path, music: Path, run: Path) -> Path:
    """A finished run of two steps."""
    words = ("--data", music, "--out", run, "--device", "cpu", "--quiet", "--set", "training.steps=2")
    work("train", quick, *words)
    return run
