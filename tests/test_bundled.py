"""The bundled model on real music: what it must do for the person who just installed it."""

from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from conftest import noise
from torch import Tensor

import audiovae
from audiovae.audio import Audio
from audiovae.codec import Codec
from audiovae.curve import Curve
from audiovae.evaluation.log_mel import log_mel_db as magnitude_log_mel_db
from audiovae.evaluation.log_mel import with_floor
from audiovae.interpolation import interpolate, interpolate_curve
from audiovae.latents import Latents
from audiovae.level import level_db

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
CLIPS = sorted(path.stem for path in EXAMPLES.glob("*.flac"))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return audiovae.load(device="cpu")


def example(name: str) -> Audio:
    return Audio.load(EXAMPLES / f"{name}.flac")


def log_mel_db(waveform: Tensor) -> np.ndarray:
    """128 mels of the first channel, in dB."""
    mels = librosa.feature.melspectrogram(y=waveform[0].numpy(), sr=44100, n_fft=2048, hop_length=512, power=1.0)
    return 20 * np.log10(np.maximum(mels, 1e-10))


def error_db(out: np.ndarray, target: np.ndarray) -> float:
    """Mean absolute difference, where what lies 80 dB under the target's peak counts as silence."""
    floor = target.max() - 80
    return float(np.abs(np.maximum(out, floor) - np.maximum(target, floor)).mean())


def correlation(stereo: Tensor) -> float:
    return float(torch.corrcoef(stereo)[0, 1])


def test_reconstructions_are_near_their_clips_and_far_from_others(codec: Codec):
    clips = {name: example(name) for name in CLIPS}
    pictures = {name: log_mel_db(clip.waveform) for name, clip in clips.items()}
    for name, clip in clips.items():
        out = codec.decode(codec.encode(clip)).waveform
        assert out.shape == clip.waveform.shape
        assert level_db(out, 44_100) == pytest.approx(level_db(clip.waveform, 44_100), abs=2.0)
        errors_db = {other: error_db(log_mel_db(out), picture) for other, picture in pictures.items()}
        assert errors_db[name] < 4.0
        assert min(errors_db[other] for other in CLIPS if other != name) > 2 * errors_db[name]


def test_nine_tenths_of_the_latent_channels_are_alive(codec: Codec):
    means = torch.cat([codec.encode(example(name)).mean.transpose(0, 1).flatten(1) for name in CLIPS], dim=1)
    assert (means.var(dim=1) > 0.01).float().mean() >= 0.9


@pytest.mark.parametrize("name", ["orchestra_grieg", "concerto_bach", "ambient"])
def test_stereo_image_and_mono_sum_survive(codec: Codec, name: str):
    clip = example(name)
    out = codec.decode(codec.encode(clip)).waveform
    for channel in range(2):
        difference = level_db(out[channel : channel + 1], 44_100) - level_db(
            clip.waveform[channel : channel + 1], 44_100
        )
        assert abs(difference) < 2.5
    assert correlation(out) >= correlation(clip.waveform) - 0.1
    # A mono sum that combed would lose level.
    lost = level_db(clip.waveform.mean(0, keepdim=True), 44_100) - level_db(out.mean(0, keepdim=True), 44_100)
    assert lost < 2.0


@pytest.mark.parametrize("rate", [22_050, 44_100])
@pytest.mark.parametrize("seconds", [0.02, 0.1])
@pytest.mark.parametrize("duration", [10, 40])
def test_hits_with_silence_between_keep_their_level(codec: Codec, seconds: float, rate: int, duration: int):
    time = torch.arange(duration * rate) / rate
    hits = 0.3 * noise(samples=len(time)) * (time % 1 < seconds)
    out = codec.decode(codec.encode(Audio(hits, rate)), quality="draft").waveform
    assert level_db(out, rate) == pytest.approx(level_db(hits, rate), abs=0.5)


def test_an_offset_and_ultrasound_change_nothing(codec: Codec):
    flute = example("flute_dvorak").waveform[:, : 3 * 44100]
    plain = codec.encode(Audio(flute, 44100))
    shifted = codec.encode(Audio(flute + 0.2, 44100))
    assert shifted.level_db == pytest.approx(plain.level_db, abs=0.02)
    assert (shifted.mean - plain.mean).abs().mean() < 0.02
    fast = Audio(flute, 44100).resample(96_000).waveform
    beyond = 0.5 * torch.sin(2 * torch.pi * 30_000 * torch.arange(fast.shape[1]) / 96_000)
    sharp = codec.encode(Audio(fast + beyond, 96_000))
    assert sharp.level_db == pytest.approx(plain.level_db, abs=0.05)


def test_what_trimming_leaves_keeps_its_own_level(codec: Codec):
    hiss = noise(samples=6 * 44100)
    hiss *= torch.where(torch.arange(6 * 44100) < 3 * 44100, 0.002, 0.2)
    a = codec.encode(Audio(hiss, 44100))
    b = codec.encode(Audio(example("guitar").waveform[:1, : 2 * 44100], 44100))
    quiet = level_db(hiss[:, : 2 * 44100], 44100)
    first = codec.decode(interpolate(a, b, weight=0, fit="trim", codec=codec), quality="draft")
    assert level_db(first.waveform, 44100) == pytest.approx(quiet, abs=1.0)
    last = codec.decode(interpolate(a, b, weight=1, fit="trim", codec=codec), quality="draft")
    assert level_db(last.waveform, 44100) == pytest.approx(b.level_db, abs=0.1)
    silent_first = codec.encode(Audio(hiss * (torch.arange(6 * 44100) > 3 * 44100), 44100))
    curve = Curve((0.0, 1.0), (0.0, 1.0))
    assert interpolate_curve(silent_first, b, curve, fit="trim", codec=codec).level_db == b.level_db


def test_short_blocks_join_without_a_click(codec: Codec):
    blocks = list(codec.stream(codec.encode(example("music_box")), block_seconds=0.25))
    bends = torch.cat(blocks, dim=1)[0].diff(n=2).abs()
    joins = torch.tensor([block.shape[1] for block in blocks[:-1]]).cumsum(0).tolist()
    worst = max(float(bends[at - 3 : at + 2].max() / bends[at - 600 : at - 50].max()) for at in joins)
    assert worst < 2.0  # 0.8; without the fade at joins 6


def test_one_stroke_in_a_long_quiet_recording_keeps_its_level(codec: Codec):
    hiss = 1e-3 * noise(samples=60 * 44100)
    for start in (20.0, 41.7):
        stroke = hiss.clone()
        first = round(start * 44100)
        stroke[:, first : first + 11025] += example("guitar").waveform[:1, 22050 : 22050 + 11025]
        out = codec.decode(codec.encode(Audio(stroke, 44100)), quality="draft").waveform
        assert level_db(out, 44100) == pytest.approx(level_db(stroke, 44100), abs=2.0)


def test_panned_sound_stays_where_it_was(codec: Codec):
    mono = example("guitar").waveform
    panned = Audio(torch.cat([mono, 0.25 * mono]), 44100)
    out = codec.decode(codec.encode(panned)).waveform
    assert level_db(out[:1], 44_100) - level_db(out[1:], 44_100) == pytest.approx(12.04, abs=2.0)
    assert correlation(out) > 0.95


def test_opposite_channels_do_not_cancel(codec: Codec):
    mono = example("flute_dvorak").waveform
    out = codec.decode(codec.encode(Audio(torch.cat([mono, -mono]), 44100))).waveform
    assert level_db(out[:1], 44_100) == pytest.approx(level_db(mono, 44_100), abs=2.0)


def test_ends_of_a_path_are_the_reconstructions_exactly(codec: Codec):
    a, b = codec.encode(example("music_box")), codec.encode(example("piano_bach"))
    for weight, end in ((0.0, a), (1.0, b)):
        between = codec.decode(audiovae.interpolate(a, b, weight=weight))
        assert torch.equal(between.waveform, codec.decode(end).waveform)


@pytest.mark.parametrize("ends", [("guitar", "flute_dvorak"), ("music_box", "piano_bach")])
def test_steps_lead_from_one_end_to_the_other(codec: Codec, ends: tuple[str, str]):
    a, b = (codec.encode(example(name)) for name in ends)
    start, end = codec.spectrogram_of(a), codec.spectrogram_of(b)
    steps = [codec.spectrogram_of(audiovae.interpolate(a, b, weight=weight / 4)) for weight in range(5)]
    from_start = [float((step - start).abs().mean()) for step in steps]
    from_end = [float((step - end).abs().mean()) for step in steps]
    assert from_start == sorted(from_start)
    assert from_end == sorted(from_end, reverse=True)


def test_new_sounds_can_be_heard(codec: Codec):
    """Of what the prior draws for the third of these, next to nothing can."""
    sounds = [audiovae.generate(codec, seed=1, index=index) for index in range(4)]
    assert min(codec.decoded_level_db(sound) for sound in sounds) > -50


def test_generated_sounds_hold_together_in_time(codec: Codec):
    def change(latents: audiovae.Latents) -> float:
        spectrogram = codec.spectrogram_of(latents)
        whole = spectrogram.unflatten(-1, (-1, codec.config.model.time_stride)).mean(-1)
        return float(whole.diff(dim=-1).abs().mean() / (whole - whole.mean(-1, keepdim=True)).abs().mean())

    drawn = audiovae.generate(codec, duration_seconds=4.0)
    shuffled = drawn.mean[..., torch.randperm(drawn.latent_frames, generator=torch.Generator().manual_seed(0))]
    independent = audiovae.Latents(
        shuffled, None, "shuffled", drawn.sample_rate, drawn.samples, drawn.level_db, drawn.checkpoint
    )
    assert change(drawn) < 0.9 * change(independent)
    sound = codec.decode(drawn).waveform
    assert sound.shape == (1, 4 * 44100)
    assert level_db(sound, 44_100) == pytest.approx(-20, abs=6)
    assert not torch.equal(sound, codec.decode(audiovae.generate(codec, index=1)).waveform)


def test_new_sounds_come_from_a_flow_and_are_no_silence(codec: Codec):
    assert codec.prior.flow is not None
    sounds = [audiovae.generate(codec, duration_seconds=1.0, index=index) for index in range(6)]
    peaks_db = [20 * float(codec.spectrogram.magnitude(codec.spectrogram_of(one)[0]).max().log10()) for one in sounds]
    assert min(peaks_db) > -20
    assert not sounds[0].mean.allclose(sounds[1].mean, atol=0.1)


def test_new_sounds_vary_as_much_as_the_data(codec: Codec, monkeypatch: pytest.MonkeyPatch):
    """In the channels that carry most; without guidance they vary less."""

    def deviation() -> float:
        drawn = codec.prior.sample(64, count=40, generator=torch.Generator().manual_seed(0))
        return float((drawn.transpose(0, 1).flatten(1).std(dim=1) / codec.prior.flow.std)[:64].mean())

    guided = deviation()
    monkeypatch.setattr("audiovae.model.flow.GUIDANCE", 1.0)
    assert guided == pytest.approx(1, abs=0.08)
    assert deviation() < guided - 0.05


def test_a_variation_goes_further_by_amount(codec: Codec):
    guitar = codec.encode(example("guitar"))
    changes = [
        float((audiovae.generate(codec, like=guitar, amount=amount).mean - guitar.mean).square().mean().sqrt())
        for amount in (0, 0.01, 0.1, 0.3, 0.6, 1)
    ]
    assert changes[0] == 0
    assert changes[1] < 0.1 * changes[3]
    assert changes == sorted(changes)


def test_in_betweens_are_as_bright_and_move_as_much_as_their_ends(codec: Codec):
    """On the straight line as it is they are duller, and move less."""

    def brightness_and_movement_db(latents: Latents) -> Tensor:
        levels_db = magnitude_log_mel_db(codec.spectrogram.magnitude(codec.spectrogram_of(latents))[0], 44100)
        levels_db = with_floor(levels_db, levels_db)
        low, high = levels_db.chunk(2)
        return torch.stack([high.mean() - low.mean(), levels_db.std(dim=1).mean()])

    clips = [codec.encode(example(name)) for name in CLIPS[:6]]
    pairs = list(pairwise([*clips, clips[0]]))
    ends = torch.stack([brightness_and_movement_db(one) for one in clips]).mean(0)
    changes = {}
    for path in ("normalised", "linear"):
        middles = [interpolate(a, b, path=path, fit="trim", align="none", codec=codec) for a, b in pairs]
        changes[path] = torch.stack([brightness_and_movement_db(one) for one in middles]).mean(0) - ends
    assert changes["normalised"].abs().max() < 1.5
    assert (changes["linear"] < -1).all()
