import json
import math
import pickle
import re
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from audiovae.config import Config, ModelConfig
from audiovae.errors import InputError
from audiovae.latents import Latents, count_latent_frames

HEADER = {
    "format": "audiovae-latents/1",
    "source": '"a.wav"',
    "sample_rate": "44100",
    "samples": "9000",
    "level_db": "-20.5",
    "checkpoint": '"f00d"',
}


def latents(**changes) -> Latents:
    mean = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    fields = {"source": "a.wav", "sample_rate": 44100, "samples": 9000, "level_db": -20.5, "checkpoint": "f00d"}
    return Latents(**{"mean": mean, "logvar": -mean.abs(), **fields, **changes})


def write(path, header, **tensors):
    safetensors.torch.save_file(tensors or {"mean": torch.zeros(1, 4, 3)}, path, header)
    return path


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        Latents.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("changes", [{}, {"logvar": None}, {"level_db": -math.inf}, {"source": "Grüße “🎻”\n.wav"}])
def test_file_gives_back_what_was_saved(tmp_path, changes):
    saved = latents(**changes)
    saved.save(tmp_path / "a.latents")
    loaded = Latents.load(tmp_path / "a.latents")
    assert torch.equal(loaded.mean, saved.mean)
    assert (loaded.logvar is None) == (saved.logvar is None)
    assert saved.logvar is None or torch.equal(loaded.logvar, saved.logvar)
    for name in ("source", "sample_rate", "samples", "level_db", "checkpoint"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert (loaded.channels, loaded.latent_frames) == (2, 3)
    assert loaded.duration_seconds == pytest.approx(9000 / 44100)


def test_header_is_the_documented_json(tmp_path):
    latents(level_db=-math.inf).save(tmp_path / "a.latents")
    with safetensors.safe_open(tmp_path / "a.latents", "pt") as file:
        header = file.metadata()
    assert header.pop("format") == "audiovae-latents/1"
    assert {name: json.loads(text) for name, text in header.items()} == {
        "source": "a.wav",
        "sample_rate": 44100,
        "samples": 9000,
        "level_db": None,
        "checkpoint": "f00d",
    }


def test_latents_that_are_a_view_are_saved_as_seen(tmp_path):
    mean = torch.randn(4, 3)
    latents(mean=mean.T[None].expand(2, -1, -1), logvar=None).save(tmp_path / "a.latents")
    assert torch.equal(Latents.load(tmp_path / "a.latents").mean, torch.stack([mean.T, mean.T]))


def test_a_name_as_long_as_a_disk_takes_is_written(tmp_path):
    path = tmp_path / ("é" * 121 + "a" + ".safetensors")
    latents().save(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_nothing_is_overwritten_without_force(tmp_path):
    path = tmp_path / "a.latents"
    latents().save(path)
    with pytest.raises(InputError, match=re.escape(f"{path}: exists already (use --force to overwrite)")):
        latents(samples=9001).save(path)
    assert Latents.load(path).samples == 9000
    latents(samples=9001).save(path, force=True)
    assert Latents.load(path).samples == 9001


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    latents().save(tmp_path / "a.latents")
    monkeypatch.setattr("audiovae.tensor_file.os.replace", full)
    with pytest.raises(InputError, match=r"a\.latents: can't be written: No space left on device"):
        latents(samples=1).save(tmp_path / "a.latents", force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.latents"]
    assert Latents.load(tmp_path / "a.latents").samples == 9000


def test_save_names_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a", "can't be written: No such file or directory"),
        (tmp_path / "file" / "a", "can't be written: Not a directory"),
    ]:
        with pytest.raises(InputError, match=re.escape(f"{path}: {reason}")):
            latents().save(path)


def test_missing_and_folder_are_refused(tmp_path):
    assert refusal(tmp_path / "none.latents") == "no such file"
    assert refusal(tmp_path) == "is a folder, not a latents file"


@pytest.mark.parametrize("data", [b"", b"just some text\n" * 9, pickle.dumps({"mean": [0.0] * 99})])
def test_other_kinds_of_file_are_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert refusal(tmp_path / "a") == "not a readable latents file (not safetensors)"


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated_is_refused(tmp_path, kept):
    latents().save(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: int(kept * len(data))])
    assert refusal(tmp_path / "a") == "not a readable latents file (truncated or damaged)"


def test_newer_format_is_refused_in_words(tmp_path):
    write(tmp_path / "a", HEADER | {"format": "audiovae-latents/2"})
    assert refusal(tmp_path / "a") == "made by a newer audiovae: format audiovae-latents/2, this one reads up to /1"


@pytest.mark.parametrize("text", ["audiovae/1", "audiovae-latents", "audiovae-latents/x", "audiovae-latents/0", None])
def test_safetensors_of_another_kind_are_refused(tmp_path, text):
    header = {name: value for name, value in (HEADER | {"format": text}).items() if value is not None}
    write(tmp_path / "a", header)
    assert refusal(tmp_path / "a") == f"not a latents file (format {text!r}, want 'audiovae-latents/1')"


@pytest.mark.parametrize("name", ["source", "sample_rate", "samples", "level_db", "checkpoint"])
def test_every_header_field_is_required(tmp_path, name):
    write(tmp_path / "a", {key: value for key, value in HEADER.items() if key != name})
    assert refusal(tmp_path / "a") == f"header lacks {name}"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("source", "3", "is '3', want text"),
        ("sample_rate", "44100.0", "is '44100.0', want a whole number"),
        ("sample_rate", "true", "is 'true', want a whole number"),
        ("samples", "null", "is 'null', want a whole number"),
        ("level_db", '"loud"', "is '\"loud\"', want a number or null"),
        ("checkpoint", "[]", "is '[]', want text"),
        ("samples", "{", "is not JSON"),
        ("level_db", "1" + 400 * "0", "is not JSON"),
    ],
)
def test_header_fields_of_the_wrong_type_are_refused(tmp_path, name, text, reason):
    write(tmp_path / "a", HEADER | {name: text})
    assert refusal(tmp_path / "a") == f"header field {name} {reason}"


@pytest.mark.parametrize(
    ("header", "tensors", "reason"),
    [
        ({"samples": "-1"}, {}, "samples -1 must be above 0"),
        ({"sample_rate": "0"}, {}, "sample_rate 0 must be above 0"),
        ({"level_db": "NaN"}, {}, "level_db nan must be -1000 to 1000, or -inf for silence"),
        ({"level_db": "1e9"}, {}, "level_db 1000000000.0 must be -1000 to 1000"),
        ({"level_db": "Infinity"}, {}, "level_db inf must be -1000 to 1000, or -inf for silence"),
        ({}, {"mean": torch.zeros(4, 3)}, "mean [4, 3] must have shape [channels, latent_channels, latent_frames]"),
        ({}, {"mean": torch.zeros(1, 4, 0)}, "mean [1, 4, 0] must have shape [channels, latent_channels, latent_fra"),
        ({}, {"mean": torch.full((1, 4, 3), math.nan)}, "mean has NaN or infinite values"),
        ({}, {"mean": torch.zeros(1, 4, 3, dtype=torch.int32)}, "mean must hold real numbers, not torch.int32"),
        (
            {},
            {"mean": torch.zeros(1, 4, 3), "logvar": torch.zeros(1, 4, 2)},
            "logvar [1, 4, 2] and mean [1, 4, 3] differ in shape",
        ),
        (
            {},
            {"mean": torch.zeros(1, 4, 3), "logvar": torch.full((1, 4, 3), -math.inf)},
            "logvar has NaN or infinite values",
        ),
        ({}, {"weight": torch.zeros(1)}, "holds ['weight'], want mean and perhaps logvar"),
    ],
)
def test_contents_that_can_not_be_true_are_refused(tmp_path, header, tensors, reason):
    write(tmp_path / "a", HEADER | header, **tensors)
    assert refusal(tmp_path / "a").startswith(reason)


def test_object_refuses_what_the_file_refuses():
    with pytest.raises(ValueError, match="samples -1 must be above 0"):
        replace(latents(), samples=-1)
    with pytest.raises(ValueError, match="mean has NaN"):
        latents(mean=torch.full((2, 4, 3), math.nan))


@pytest.mark.parametrize(
    ("samples", "sample_rate", "frames"),
    [
        (0, 44100, 1),
        (2047, 44100, 1),
        (2048, 44100, 2),
        (44100, 44100, 22),
        (96000, 96000, 22),
        (371, 8000, 1),
        (372, 8000, 2),
    ],
)
def test_latent_frames_of_known_lengths(samples, sample_rate, frames):
    assert count_latent_frames(samples, sample_rate, Config()) == frames


def test_latent_frames_follow_the_config():
    config = Config(model=ModelConfig(channels=(8,), band_strides=(4,), encoder_blocks=(1,), decoder_blocks=(1,)))
    assert count_latent_frames(44100, 44100, config) == 1 + 44100 // 1024
