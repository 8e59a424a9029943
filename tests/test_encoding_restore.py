"""A latent dataset back to audio files."""

import os
from pathlib import Path

import pytest
import torch
from conftest import noise, stereo, tone
from tiny_codec import save_tiny

from audiovae.audio import Audio
from audiovae.codec import Codec, load
from audiovae.encoding.inputs import find_recordings
from audiovae.encoding.pipeline import settings_of
from audiovae.encoding.restore import Stored, audio_names, choose, decode_dataset, find_latents
from audiovae.encoding.run import encode_dataset, local_encoder
from audiovae.errors import InputError
from audiovae.latents import Latents


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return load(save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture
def latents(codec: Codec, tmp_path: Path) -> Path:
    """A dataset of three recordings and a failure."""
    music, settings = tmp_path / "music", settings_of(codec)
    (music / "live").mkdir(parents=True)
    Audio(noise(samples=30_000), 44_100).save(music / "2.wav")
    Audio(stereo(samples=80_000), 22_050).save(music / "live" / "b.wav")
    Audio(tone(samples=9000), 48_000).save(music / "live" / "c.ogg")
    (music / "text.wav").write_text("not audio")
    encode_dataset(find_recordings([music]), tmp_path / "latents", settings, local_encoder(codec, settings))
    return tmp_path / "latents"


def test_decoding_gives_what_the_codec_gives(codec: Codec, latents: Path, tmp_path: Path) -> None:
    stored = find_latents(latents)
    assert [one.source for one in stored] == ["2.wav", "live/b.wav", "live/c.ogg"]
    targets = [tmp_path / "out" / name for name in audio_names([one.source for one in stored], "flac")]
    gains_db = decode_dataset(codec, stored, targets, quality="draft")
    for one, target, gain_db in zip(stored, targets, gains_db, strict=True):
        latents, audio = one.load(), Audio.load(target)
        assert (audio.samples, audio.sample_rate, audio.channels) == (
            latents.samples,
            latents.sample_rate,
            latents.channels,
        )
        expected = codec.decode(latents, quality="draft").waveform * 10 ** (gain_db / 20)
        torch.testing.assert_close(audio.waveform, expected, atol=1e-6, rtol=0)


def test_a_dataset_of_fewer_channels_holds_the_first_and_is_decoded(codec: Codec, tmp_path: Path) -> None:
    settings = settings_of(codec, latent_channels=3, precision="float32", logvar=True)
    sound = Audio(noise(samples=30_000), 44_100)
    sound.save(tmp_path / "a.wav")
    recordings = find_recordings([tmp_path / "a.wav"])
    encode_dataset(recordings, tmp_path / "latents", settings, local_encoder(codec, settings))
    (stored,) = find_latents(tmp_path / "latents")
    kept, whole = stored.load(), codec.encode(tmp_path / "a.wav")
    assert kept.logvar is not None and whole.logvar is not None
    torch.testing.assert_close(kept.mean, whole.mean[:, :3], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(kept.logvar, whole.logvar[:, :3], atol=1e-4, rtol=1e-5)
    decode_dataset(codec, [stored], [tmp_path / "a.flac"], quality="draft")
    assert Audio.load(tmp_path / "a.flac").samples == sound.samples
    with pytest.raises(InputError, match="latent_channels"):
        all_channels = settings_of(codec)
        encode_dataset(recordings, tmp_path / "latents", all_channels, local_encoder(codec, all_channels))
    assert settings_of(codec, latent_channels=8) == settings_of(codec)
    with pytest.raises(InputError, match="latent channels 9: the model has 8"):
        settings_of(codec, latent_channels=9)


def test_a_part_of_a_dataset_is_chosen_by_source_or_glob(latents: Path) -> None:
    stored = find_latents(latents)
    assert choose(latents, stored, []) == choose(latents, stored, ["live/*", "2.wav"]) == [0, 1, 2]
    assert [stored[place].source for place in choose(latents, stored, ["live/c.ogg"])] == ["live/c.ogg"]
    with pytest.raises(InputError, match=r"latents: no encoded recording is named text\.wav"):
        choose(latents, stored, ["2.wav", "text.wav"])
    (shard,) = latents.glob("latents-0*.parquet")
    assert len(find_latents(shard)) == 3


def test_a_latents_file_is_decoded_too(codec: Codec, tmp_path: Path) -> None:
    latents = codec.encode(Audio(tone(samples=9000), 48_000))
    latents.save(tmp_path / "c.ogg.latents.safetensors")
    (stored,) = find_latents(tmp_path / "c.ogg.latents.safetensors")
    assert audio_names([stored.source], "wav") == ["c.wav"]
    assert torch.equal(stored.load().mean, latents.mean)


def test_nothing_is_decoded_if_another_model_made_it(codec: Codec, latents: Path, tmp_path: Path) -> None:
    other = load(save_tiny(tmp_path / "other.safetensors", seed=1), device="cpu")
    stored = find_latents(latents)
    message = rf"2\.wav: encoded by checkpoint {codec.fingerprint}, this one is {other.fingerprint} "
    with pytest.raises(InputError, match=message):
        decode_dataset(other, stored, [tmp_path / f"{index}.wav" for index in range(3)])
    assert not list(tmp_path.glob("*.wav"))


def test_audio_names_drop_the_old_suffix_where_they_stay_distinct() -> None:
    sources = ("a.wav", "a.flac", "x/a.wav", "x/b.c.ogg", "B.wav", "b.ogg")
    expected = ["a.wav.wav", "a.flac.wav", "x/a.wav", "x/b.c.wav", "B.wav.wav", "b.ogg.wav"]
    assert audio_names(sources, "wav") == expected


def test_audio_names_stay_in_the_folder_and_apart() -> None:
    sources = ("../../etc/a.wav", "/etc/a.wav", "a.wav", "a.wav", "..", "x/../b.wav", "caf\\xe9.wav")
    names = audio_names(sources, "wav")
    assert names == [
        "etc/a.wav.wav",
        "etc/a.wav (2).wav",
        "a.wav.wav",
        "a.wav (2).wav",
        "recording.wav",
        "x/b.wav",
        os.fsdecode(b"caf\xe9.wav"),
    ]


def test_audio_names_keep_what_is_no_suffix_and_fit_on_a_disk() -> None:
    assert audio_names(["mix v1.5", "mix v1.6", "a.b.wav"], "wav") == ["mix v1.5.wav", "mix v1.6.wav", "a.b.wav"]
    long = ["é" * 125 + ".wav", "é" * 125 + ".ogg", "x/" + "n" * 251 + ".wav"]
    names = audio_names(long, "flac")
    assert names[:2] == ["é" * 125 + ".flac", "é" * 123 + " (2).flac"]
    assert names[2] == "x/" + "n" * 250 + ".flac"


def test_stored_latents_are_loaded_only_when_asked_for(tmp_path: Path, codec: Codec) -> None:
    def fail() -> Latents:
        raise AssertionError

    with pytest.raises(InputError, match="encoded by checkpoint"):
        decode_dataset(codec, [Stored("a", "other", fail)], [tmp_path / "a.wav"])
