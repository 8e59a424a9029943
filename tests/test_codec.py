"""The whole way, on a tiny untrained model: lengths, chunks, levels and channels don't depend on what it has learnt."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import noise, silence, stereo, tone
from tiny_codec import TINY

from audiovae import codec as codec_module
from audiovae.audio import Audio, AudioFile, AudioWriter
from audiovae.checkpoint import Facts, save_checkpoint
from audiovae.codec import ITERATIONS, Codec, _regrouped, load
from audiovae.errors import InputError
from audiovae.evaluation.log_mel import stft_magnitude
from audiovae.generation import generate
from audiovae.latents import count_latent_frames
from audiovae.level import level_db
from audiovae.model.prior import Prior
from audiovae.model.vae import VAE


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("codec") / "tiny.safetensors"
    save_checkpoint(path, model=VAE(TINY), prior=Prior.standard(8), facts=Facts())
    return load(path, device="cpu")


def recording(seconds: float, *, sample_rate: int = 44100, channels: int = 1) -> Audio:
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(channels, round(seconds * sample_rate), generator=generator)
    return Audio(waveform, sample_rate, source="noise")


def test_latents_carry_the_recordings_facts(codec: Codec):
    latents = codec.encode(recording(1.0, sample_rate=48000, channels=2))
    assert latents.mean.shape == (2, 8, 1 + 44100 // 4096)
    assert latents.mean.shape[-1] == count_latent_frames(48000, 48000, TINY)
    assert (latents.sample_rate, latents.samples, latents.source) == (48000, 48000, "noise")
    assert latents.checkpoint == codec.fingerprint
    assert latents.level_db == pytest.approx(-20, abs=0.7)  # half a dB of it lies above 22 kHz


@pytest.mark.parametrize("samples", [1, 2, 2205, 4095, 4096, 4097, 50_001])
@pytest.mark.parametrize("sample_rate", [8000, 44100, 48000, 192_000])
def test_length_comes_back_to_the_sample(codec: Codec, samples: int, sample_rate: int):
    audio = codec.decode(codec.encode(Audio(noise(samples=samples), sample_rate)), quality="draft")
    assert (audio.samples, audio.sample_rate, audio.channels) == (samples, sample_rate, 1)
    assert audio.waveform.isfinite().all()


@pytest.mark.parametrize("samples", [15_872, 15_873, 16_188, 16_383])
def test_sound_goes_on_to_the_last_sample(codec: Codec, samples: int):
    made = [codec.decode(codec.encode(Audio(0.2 * noise(samples=samples, seed=seed), 44100))) for seed in range(6)]
    waveform = torch.cat([audio.waveform for audio in made])
    end, before = waveform[:, -128:], waveform[:, -4096:-512]
    assert float(end.std()) > 0.1 * float(before.std())


def test_half_precision_latents_decode(codec: Codec):
    latents = codec.encode(recording(0.5))
    half = replace(latents, mean=latents.mean.half(), logvar=None)
    error = codec.spectrogram_of(half) - codec.spectrogram_of(latents)
    assert float(error.abs().max()) < 0.05


def test_latents_without_their_last_channels_decode_as_if_those_were_zero(codec: Codec):
    latents = replace(codec.encode(recording(0.5)), logvar=None)
    zeroed = latents.mean.clone()
    zeroed[:, 5:] = 0
    kept = replace(latents, mean=latents.mean[:, :5])
    assert not torch.equal(codec.spectrogram_of(latents), codec.spectrogram_of(kept))
    assert torch.equal(codec.spectrogram_of(replace(latents, mean=zeroed)), codec.spectrogram_of(kept))
    assert torch.equal(codec.decode(replace(latents, mean=zeroed)).waveform, codec.decode(kept).waveform)


def test_latents_that_contradict_themselves_are_refused(codec: Codec):
    latents = replace(codec.encode(recording(0.5)), logvar=None)
    for wrong, reason in (
        ({"samples": 10**13}, "latent frames, but there are"),
        ({"mean": latents.mean.repeat(1, 2, 1)}, "are not this model's"),
        ({"mean": latents.mean.repeat(3, 1, 1)}, "are not this model's"),
    ):
        with pytest.raises(InputError, match=f"noise: .*{reason}"):
            codec.decode(replace(latents, **wrong))
    with pytest.raises(InputError, match="are not this model's"):
        generate(codec, like=replace(latents, mean=latents.mean.repeat(1, 2, 1)))


def test_audio_in_memory_is_refused_like_a_file(codec: Codec):
    for waveform, reason in (
        (torch.zeros(1, 0), "contains no samples"),
        (torch.zeros(3, 100), "has 3 channels"),
        (torch.full((1, 100), float("nan")), "contains NaN or infinity"),
        (torch.zeros(0, 100), "has 0 channels"),
    ):
        with pytest.raises(InputError, match=f"mine: {reason}"):
            codec.encode(Audio(waveform, 44100, source="mine"))
    for rate in (0, 4_000, 1_000_000):
        with pytest.raises(InputError, match=f"mine: sample rate {rate} Hz is outside 8000 to 192000 Hz"):
            codec.encode(Audio(torch.zeros(1, 100), rate, source="mine"))


@pytest.mark.parametrize("sample_rate", [44_100, 48_000])
def test_audio_in_memory_may_be_of_any_float_and_have_a_gradient(codec: Codec, sample_rate: int):
    waveform = noise(samples=9000)
    expected = codec.encode(Audio(waveform, sample_rate)).mean
    assert codec.encode(Audio(waveform.double(), sample_rate)).mean.equal(expected)
    assert codec.encode(Audio(waveform.clone().requires_grad_(), sample_rate)).mean.equal(expected)


def test_stereo_stays_stereo(codec: Codec):
    audio = codec.decode(codec.encode(Audio(stereo(), 44100)), quality="draft")
    assert audio.waveform.shape == (2, 22_050)


def test_level_is_met_even_by_a_model_that_learnt_nothing(codec: Codec):
    audio = recording(2.0)
    assert level_db(codec.decode(codec.encode(audio)).waveform, 44_100) == pytest.approx(
        level_db(audio.waveform, 44_100), abs=1.0
    )


def test_silence_in_gives_silence_out(codec: Codec):
    latents = codec.encode(Audio(silence(), 44100))
    assert latents.level_db == -math.inf
    assert not codec.decode(latents).waveform.any()


def test_level_is_taken_out_and_put_back(codec: Codec):
    loud = codec.encode(Audio(tone(), 44100))
    quiet = codec.encode(Audio(tone() * 0.01, 44100))
    torch.testing.assert_close(quiet.mean, loud.mean, atol=1e-3, rtol=1e-3)
    assert quiet.level_db == pytest.approx(loud.level_db - 40, abs=0.01)
    ratio = codec.decode(loud).waveform.norm() / codec.decode(quiet).waveform.norm()
    assert float(ratio) == pytest.approx(100, rel=0.02)


def test_chunks_change_nothing(codec: Codec, monkeypatch: pytest.MonkeyPatch):
    audio = recording(9.0, sample_rate=32000, channels=2)
    whole = codec.encode(audio)
    whole_spectrogram = codec.spectrogram_of(whole)
    for frames in (7, 32):
        monkeypatch.setattr(codec_module, "CHUNK_LATENT_FRAMES", frames)
        chunked = codec.encode(audio)
        torch.testing.assert_close(chunked.mean, whole.mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(codec.spectrogram_of(whole), whole_spectrogram, atol=1e-4, rtol=1e-4)


def test_file_and_audio_in_memory_give_the_same(codec: Codec, tmp_path: Path):
    path = tmp_path / "a.wav"
    recording(3.0, sample_rate=22050, channels=2).save(path)
    torch.testing.assert_close(codec.encode(path).mean, codec.encode(Audio.load(path)).mean, atol=1e-5, rtol=1e-4)


def test_long_recordings_come_in_blocks(codec: Codec):
    latents = codec.encode(recording(30.0, sample_rate=24000))
    blocks = list(codec.stream(latents, quality="draft"))
    assert len(blocks) > 2
    assert max(block.shape[1] for block in blocks) < 16 * 24000
    assert sum(block.shape[1] for block in blocks) == 30 * 24000
    assert torch.equal(torch.cat(blocks, dim=1), codec.decode(latents, quality="draft").waveform)


@pytest.mark.parametrize("sample_rate", [44_100, 8_000])
@pytest.mark.parametrize("samples", [1, 7, 100, 700, 4096, 7000])
def test_the_shortest_sounds_keep_their_level(codec: Codec, samples: int, sample_rate: int):
    sound = Audio(noise(samples=samples, channels=2), sample_rate)
    back = codec.decode(codec.encode(sound), quality="draft")
    assert level_db(back.waveform, sample_rate) == pytest.approx(level_db(sound.waveform, sample_rate), abs=0.01)


@pytest.mark.parametrize("block_seconds", [0.1, 2.0])
def test_blocks_have_the_length_that_was_asked_for(codec: Codec, block_seconds: float):
    latents = codec.encode(recording(5.0, channels=2))
    blocks = list(codec.stream(latents, quality="draft", block_seconds=block_seconds))
    for block in blocks[:-1]:
        assert block.shape == (2, pytest.approx(44100 * block_seconds, abs=256))
    assert sum(block.shape[1] for block in blocks) == 5 * 44100
    again = codec.stream(latents, quality="draft", block_seconds=block_seconds)
    assert all(torch.equal(one, other) for one, other in zip(blocks, again, strict=True))


def test_silence_comes_in_blocks_too(codec: Codec):
    blocks = list(codec.stream(codec.encode(Audio(silence(), 44100)), block_seconds=0.1))
    assert [block.shape[1] for block in blocks] == [4410] * 5


def test_time_to_the_first_block_does_not_grow_with_the_length(codec: Codec, monkeypatch: pytest.MonkeyPatch):
    decoded, decode = [], VAE.decode
    monkeypatch.setattr(VAE, "decode", lambda self, mean: decoded.append(mean.numel()) or decode(self, mean))
    work = []
    for minutes in (2, 10):
        latents = codec.encode(recording(5.0))
        frames = count_latent_frames(60 * minutes * 44100, 44100, TINY)
        mean = latents.mean.repeat(1, 1, 1 + frames // latents.latent_frames)[..., :frames]
        decoded.clear()
        next(codec.stream(replace(latents, mean=mean, logvar=None, samples=60 * minutes * 44100), block_seconds=0.5))
        work.append(sum(decoded))
    assert work[0] == work[1]
    assert work[0] < 8 * count_latent_frames(2 * 60 * 44100, 44100, TINY)


@pytest.mark.parametrize("quality", ["standard", "best"])
@pytest.mark.parametrize("block_frames", [20, 88])
@pytest.mark.parametrize("frequencies_hz", [(440.0,), (440.0, 660.0)])
def test_blocks_of_synthesis_leave_no_seam(
    codec: Codec, quality: str, block_frames: int, frequencies_hz: tuple[float, ...]
):
    """Steady tones' own spectrogram, made into sound in several blocks: as steady at the joins as elsewhere."""
    time = torch.arange(4 * 44100) / 44100
    tones = torch.stack([0.1 * torch.sin(2 * math.pi * frequency_hz * time) for frequency_hz in frequencies_hz])
    magnitude = codec.spectrogram.magnitude(codec.spectrogram(tones[:, None])[:, 0])
    pieces = _regrouped(iter([magnitude]), block_frames)
    blocks = list(codec._waveform_blocks(pieces, block_frames, ITERATIONS[quality]))
    assert len(blocks) > 2
    waveform = torch.cat(blocks, dim=1)
    level = waveform[:, 4096 : 4 * 44100 - 8192].unfold(1, 2048, 512).std(2)
    assert float((level.amax(1) / level.amin(1)).max()) < 1.2


def test_joins_of_streamed_music_are_no_worse_than_the_rest(codec: Codec):
    """Noise with a pulse, unlike in the two channels: what the blocks made has the decoder's magnitudes everywhere."""
    audio = recording(6.0, channels=2)
    pulse = 0.3 + torch.sin(2 * math.pi * 3 * torch.arange(audio.samples) / 44100).clamp_min(0)
    latents = codec.encode(replace(audio, waveform=audio.waveform * pulse))
    blocks = list(codec.stream(latents, block_seconds=0.5))
    made = stft_magnitude(torch.cat(blocks, dim=1))
    true = codec.spectrogram.magnitude(codec.spectrogram_of(latents))[..., : made.shape[2]]
    made = made * (made * true).sum() / made.square().sum()
    error = (made - true).norm(dim=(0, 1)) / true.norm(dim=(0, 1))
    joins = torch.tensor([block.shape[1] for block in blocks[:-1]]).cumsum(0) // 512
    near = (joins[:, None] + torch.arange(-1, 2)).flatten()
    assert float(error[near].mean()) < 1.2 * float(error[20:-20].mean())


def test_save_writes_what_decode_returns(codec: Codec, tmp_path: Path):
    latents = codec.encode(recording(1.0))
    gain_db = codec.save(latents, tmp_path / "out.flac")
    error = Audio.load(tmp_path / "out.flac").waveform - codec.decode(latents).waveform * 10 ** (gain_db / 20)
    assert float(error.abs().max()) < 1e-6


def test_floats_of_any_size_come_back(codec: Codec):
    huge = Audio(recording(0.5).waveform * 1e30, 44100)
    out = codec.decode(codec.encode(huge)).waveform
    assert out.isfinite().all()
    assert level_db(out, 44_100) == pytest.approx(level_db(huge.waveform, 44_100), abs=2)


def test_same_input_gives_the_same_bytes(codec: Codec):
    first, second = (codec.decode(codec.encode(recording(1.0))) for _ in range(2))
    assert torch.equal(first.waveform, second.waveform)


def test_generator_draws_a_sample_of_the_posterior(codec: Codec):
    audio = recording(1.0)
    mean = codec.encode(audio)
    drawn = codec.encode(audio, generator=torch.Generator().manual_seed(1))
    again = codec.encode(audio, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn.mean, again.mean)
    assert mean.logvar is not None
    deviation = (drawn.mean - mean.mean) / (0.5 * mean.logvar).exp()
    assert float(deviation.std()) == pytest.approx(1.0, abs=0.2)


def test_another_models_latents_are_refused_and_both_named(codec: Codec, tmp_path: Path):
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other.safetensors", model=VAE(TINY), prior=Prior.standard(8), facts=Facts())
    other = load(tmp_path / "other.safetensors", device="cpu")
    with pytest.raises(InputError, match=rf"noise: .*{codec.fingerprint}.*{other.fingerprint}"):
        other.decode(codec.encode(recording(1.0)))


def test_unknown_device_and_quality_are_refused(codec: Codec):
    with pytest.raises(InputError, match="device tpu: must be one of auto, cpu, cuda"):
        load(codec.checkpoint.source, device="tpu")
    with pytest.raises(InputError, match="quality finest: must be one of draft, standard, best"):
        codec.decode(codec.encode(recording(0.1)), quality="finest")
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"block_seconds .*: must be a number, at least 0\.1"):
            codec.stream(codec.encode(recording(0.1)), block_seconds=wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_said(codec: Codec):
    with pytest.raises(InputError, match="device cuda: torch finds no CUDA device here"):
        load(codec.checkpoint.source, device="cuda")


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives(codec: Codec):
    cuda = load(codec.checkpoint.source, device="cuda")
    audio = recording(3.0, channels=2)
    torch.testing.assert_close(cuda.encode(audio).mean, codec.encode(audio).mean, atol=1e-2, rtol=1e-2)
    assert cuda.decode(cuda.encode(audio)).waveform.shape == audio.waveform.shape


@pytest.mark.slow
def test_half_an_hour_takes_no_more_memory_than_a_minute(codec: Codec, tmp_path: Path):
    script = """
import resource, sys
import audiovae
codec = audiovae.load(sys.argv[1], device="cpu")
codec.save(codec.encode(sys.argv[2]), sys.argv[3], quality="draft")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks_kb = []
    for minutes in (1, 30):
        source = tmp_path / f"{minutes}.flac"
        with AudioWriter(source, 44100, 2) as writer:
            for second in range(60 * minutes):
                writer.write(0.5 * noise(samples=44100, channels=2, seed=second % 7))
        arguments = [codec.checkpoint.source, source, tmp_path / f"{minutes}-out.flac"]
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        peaks_kb.append(int(result.stdout))
        assert AudioFile(arguments[2]).samples == AudioFile(source).samples
    # The waveform alone would be 635 MB; the allocator's holes make some 200 of difference.
    assert peaks_kb[1] - peaks_kb[0] < 300_000
