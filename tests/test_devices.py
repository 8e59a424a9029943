"""What runs on a GPU runs there alone: no operation mixes devices, and a recorded pass is a recording of all it does.

The GPU is pretended, so that machines without one can tell; ``pytest -m gpu`` compares the numbers of a real one.
"""

import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from commands import work
from conftest import noise, stereo, tone
from pretend_gpu import CARD, DeviceError, pretended_gpu
from tiny_training import PLAYING, rows_of, trainer_of
from torch import Tensor, nn

import audiovae
from audiovae.audio import Audio
from audiovae.codec import MEASURED_LATENT_FRAMES, Codec
from audiovae.encoding import batches, pipeline
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import encode_recordings, settings_of
from audiovae.generation import generate
from audiovae.training import prior
from audiovae.training.data import Cache
from audiovae.training.passes import RecordedPass
from audiovae.voices import move_voices

DEMOS = Path(__file__).parents[1] / "demos"


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


@pytest.fixture
def codec(checkpoint: Path, one_thread: None) -> Codec:
    codec = audiovae.load(checkpoint)
    assert codec.device.type == "cuda"
    return codec


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """accelerate knows one device and precision a process: another one begins as a new process would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# --- what is pretended ------------------------------------------------------------------------------------------------


def test_what_a_gpu_refuses_raises() -> None:
    here, there = torch.ones(3, device="cuda"), torch.ones(3)
    assert (here.device, there.device, (here + there.to(here)).device) == (CARD, torch.device("cpu"), CARD)
    assert torch.equal((here + there.cuda()).cpu(), 2 * there)
    with pytest.raises(DeviceError, match="not on one device"):
        here + there
    with pytest.raises(DeviceError, match="not on one device"):
        there[here.long()]
    with pytest.raises(DeviceError, match="NumPy"):
        here.numpy()
    with pytest.raises(DeviceError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device="cuda")
    with pytest.raises(DeviceError, match="generator"):
        torch.randint(3, (1,), generator=torch.Generator("cuda"))


def recorded(model: nn.Module, last: Callable[[Tensor], Tensor]) -> RecordedPass[Tensor]:
    def back(x: Tensor) -> Tensor:
        loss = last(model(x))
        loss.backward()
        return loss.detach()

    return RecordedPass(model, back)


def test_a_recorded_pass_repeats_what_was_done_and_sees_only_tensors_change() -> None:
    model, factors, on_host = nn.Linear(2, 1).cuda(), iter(range(1, 99)), torch.tensor(1.0)
    back = recorded(model, lambda y: on_host * next(factors) * y.square().sum())
    ones, losses = torch.ones(1, 2, device="cuda"), []
    for times in (1, 2):
        losses.append(float(back(times * ones) / model(times * ones).detach().square().sum()))
        on_host.fill_(5)
    assert losses == pytest.approx([4, 4])  # three passes to warm up come before
    assert model.weight.grad is not None and model.weight.grad.is_cuda


@pytest.mark.parametrize(
    "last",
    [
        lambda y: y[y > 0].sum(),
        lambda y: y.sum() * float(y.detach().sum()),
        lambda y: y.sum() * torch.tensor(2.0).cuda(),
        lambda y: (y * torch.rand_like(y)).sum(),
    ],
    ids=["mask", "number", "copy", "chance"],
)
def test_what_a_recording_can_not_hold_raises(last: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(DeviceError, match="CUDA graph"):
        recorded(nn.Linear(2, 1).cuda(), last)(torch.ones(1, 2, device="cuda"))


# --- sounds -----------------------------------------------------------------------------------------------------------


def test_recordings_are_encoded_and_decoded(codec: Codec, checkpoint: Path) -> None:
    recording = Audio(stereo(samples=60_000), 48_000)
    latents = codec.encode(recording)
    on_cpu = audiovae.load(checkpoint, device="cpu").encode(recording)
    torch.testing.assert_close(latents.mean, on_cpu.mean, atol=1e-5, rtol=1e-5)
    assert latents.mean.device.type == "cpu"
    assert codec.decode(latents).waveform.shape == (2, 60_000)


def test_new_sounds_are_made_however_long(codec: Codec) -> None:
    flow = codec.prior.with_flow()
    for one in (codec, replace(codec, checkpoint=replace(codec.checkpoint, prior=flow))):
        short = generate(one, duration_seconds=0.2)
        assert generate(one, like=short).mean.shape == short.mean.shape
    assert short.latent_frames <= MEASURED_LATENT_FRAMES
    blocks = codec.stream(generate(codec, duration_seconds=50), quality="draft", block_seconds=1.0)
    assert all(next(blocks).isfinite().all() for _ in range(2))


def test_sounds_between_recordings_are_made(codec: Codec) -> None:
    chords = [tone(frequency_hz=low) + tone(frequency_hz=high) for low, high in ((220, 330), (247, 415))]
    first, last = (codec.encode(Audio(chord, 44_100)) for chord in chords)
    between = audiovae.interpolate(first, last, codec=codec)
    assert between.mean.shape == first.mean.shape and between.mean.isfinite().all()
    bands = codec.spectrogram_of(first).cuda()
    shares, semitones = torch.full((2, *bands.shape[1:]), 0.5), torch.tensor([[1.0], [2.0]]).expand(2, bands.shape[2])
    assert move_voices(bands, shares, semitones, codec.spectrogram).is_cuda  # as of chords that differ more


def test_folders_are_encoded_in_batches(codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PIECE_LATENT_FRAMES", 24)
    monkeypatch.setitem(batches.BATCH_LATENT_FRAMES, "cuda", 96)
    for seed, samples in enumerate((4000, 9000, 150_000)):
        Audio(noise(samples=samples, seed=seed), 44_100).save(tmp_path / f"{seed}.wav")
    settings = settings_of(codec, precision="float32", logvar=True)
    for row in encode_recordings(codec, find_recordings([tmp_path]), settings):
        assert row.mean is not None
        torch.testing.assert_close(row.mean, codec.encode(tmp_path / row.source).mean, atol=1e-5, rtol=1e-5)


def test_the_demo_of_both_spectrograms_runs(
    checkpoint: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--checkpoint", str(checkpoint), "--clip", str(clips / "d.wav"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    runpy.run_path(str(DEMOS / "01_reconstruct.py"), run_name="__main__")
    assert (tmp_path / "out" / "reconstruction.png").exists()


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("light", "fresh_process")
@pytest.mark.parametrize("variational", ["true", "false"])
def test_a_training_step_is_recorded_whole(cache: Cache, tmp_path: Path, variational: str) -> None:
    """Also as the weight of the KL and the learning rate change, and batches and noise."""
    changing = "training.beta=0.1", "training.beta_start=0.001", "training.heard_share=0.5", "training.steps=4"
    losses = []
    for name in ("recorded", "eager"):
        trainer = trainer_of(cache, tmp_path / name, *changing, f"model.variational={variational}", device="cuda")
        assert isinstance(trainer.back, RecordedPass)
        if name == "eager":
            trainer.back = trainer._back
        losses.append([float(trainer._step(target).total) for target in trainer._batches()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 4


@pytest.mark.usefixtures("light", "fresh_process")
def test_a_run_with_a_discriminator_goes_on(cache: Cache, tmp_path: Path) -> None:
    settings = (*PLAYING, "training.adversarial_start_step=1", "training.adversarial_warmup_steps=1")
    trainer_of(cache, tmp_path, *settings, "training.steps=3", device="cuda").train()
    again = trainer_of(cache, tmp_path, *settings, "training.steps=4", device="cuda")
    again.resume()
    assert again.train() is not None
    assert "discriminator" in rows_of(tmp_path)[-2]


@pytest.mark.usefixtures("fresh_process", "one_thread")
def test_a_trained_model_gets_a_flow(quick: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior, "SEGMENTS", 64)
    monkeypatch.setattr(prior, "HELD_OUT_SEGMENTS", 8)
    monkeypatch.setattr("audiovae.model.flow.WIDTH", 48)
    words = ("--quiet", "--set", "training.mixed_precision='bf16'", "--set", "training.steps=2")
    work("train", quick, "--data", music, "--out", tmp_path / "run", *words)
    assert "step 1, " in work("train-prior", tmp_path / "run", "--steps", 1, "--quiet")
