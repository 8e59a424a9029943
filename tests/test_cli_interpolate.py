"""``audiovae interpolate``."""

import json
from pathlib import Path

import pytest
import torch
from commands import misuse, names, work

from audiovae import __version__, codec
from audiovae.audio import Audio


def test_the_ends_of_a_path_are_the_reconstructions_of_its_clips(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--quality", "draft")
    last = work(
        "interpolate", clips / "a.wav", clips / "c.flac", "--out", tmp_path / "x" / "out", "--steps", 4, *common
    )
    assert last == f"wrote {tmp_path}/x/out: 00.wav to 03.wav, path.wav, path.png, path.json"
    assert names(tmp_path) == [
        f"x/out/{name}" for name in ("00.wav", "01.wav", "02.wav", "03.wav", "path.json", "path.png", "path.wav")
    ]
    for clip, end in (("a.wav", "00.wav"), ("c.flac", "03.wav")):
        work("reconstruct", clips / clip, "--out", tmp_path / end, *common)
        assert (tmp_path / end).read_bytes() == (tmp_path / "x" / "out" / end).read_bytes()
    lengths = [Audio.load(tmp_path / "x" / "out" / f"0{index}.wav").samples for index in range(4)]
    assert lengths == [12_000, 10_000, 8_000, 6_000]


def test_path_json_tells_how_the_path_was_made(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    work("interpolate", clips / "a.wav", clips / "d.wav", "--out", tmp_path, "--steps", 3, "--checkpoint", checkpoint)
    facts = json.loads((tmp_path / "path.json").read_text())
    assert facts["version"] == __version__
    assert facts["checkpoint"] == {"fingerprint": codec.load(checkpoint).fingerprint, "file": str(checkpoint)}
    assert [(one["path"], one["sample_rate"], one["samples"], one["channels"]) for one in facts["inputs"]] == [
        (str(clips / "a.wav"), 44_100, 12_000, 1),
        (str(clips / "d.wav"), 22_050, 6_000, 2),
    ]
    assert facts["settings"] == {
        "path": "normalised",
        "fit": "stretch",
        "align": "both",
        "quality": "standard",
        "format": "wav",
    }
    *steps, whole = facts["files"]
    assert [(step["name"], step["weight"]) for step in steps] == [("00.wav", 0.0), ("01.wav", 0.5), ("02.wav", 1.0)]
    for file in facts["files"]:
        audio = Audio.load(tmp_path / file["name"])
        assert (audio.samples, audio.sample_rate, audio.channels) == (
            file["samples"],
            file["sample_rate"],
            file["channels"],
        )
    assert whole["name"] == "path.wav"
    row, place = Audio.load(tmp_path / "path.wav").waveform, 0
    for step in steps:
        alone = Audio.load(tmp_path / step["name"]).waveform * 10 ** ((whole["gain_db"] - step["gain_db"]) / 20)
        inner = slice(300, alone.shape[1] - 300)  # but for the fades
        assert torch.allclose(row[:, place : place + alone.shape[1]][:, inner], alone[:, inner], atol=1e-5)
        assert (row[:, place] == 0).all()
        place += alone.shape[1]
    assert place == row.shape[1]
    assert steps[0]["distance_to_previous_db"] is None
    assert steps[1]["distance_to_previous_db"] > 1


def test_steps_of_equal_sounds_have_no_distance(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    clip = clips / "b.wav"
    work("interpolate", clip, clip, "--out", tmp_path, "--steps", 3, "--checkpoint", checkpoint, "--quality", "draft")
    distances = [
        file.get("distance_to_previous_db") for file in json.loads((tmp_path / "path.json").read_text())["files"]
    ]
    assert distances[1:3] == pytest.approx([0.0, 0.0], abs=1e-4)


def test_a_path_visits_more_than_two_clips_in_order(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    common = ("--checkpoint", checkpoint, "--quality", "draft", "--format", "flac")
    three = (clips / "a.wav", clips / "b.wav", clips / "c.flac")
    work("interpolate", *three, "--out", tmp_path / "out", "--steps", 5, "--path", "spherical", *common)
    facts = json.loads((tmp_path / "out" / "path.json").read_text())
    assert [file["weights"] for file in facts["files"][:5]] == [
        [1, 0, 0],
        [0.5, 0.5, 0],
        [0, 1, 0],
        [0, 0.5, 0.5],
        [0, 0, 1],
    ]
    work("reconstruct", clips / "b.wav", "--out", tmp_path / "b.flac", *common[:4])
    assert (tmp_path / "b.flac").read_bytes() == (tmp_path / "out" / "02.flac").read_bytes()


def test_each_weight_makes_a_file(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    weights = ("--weight", 0.5, "--weight", -0.25, "--weight", 1.125)
    common = ("--checkpoint", checkpoint, "--quality", "draft", "--format", "ogg")
    last = work("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path, *weights, *common)
    files = ["weight_0.50.ogg", "weight_-0.25.ogg", "weight_1.125.ogg"]
    assert last == f"wrote {tmp_path}: {', '.join(files)}, path.png, path.json"
    assert names(tmp_path) == sorted([*files, "path.json", "path.png"])


def test_a_weight_for_each_of_several_clips_makes_one_blend(checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    weights = ("--weight", 1, "--weight", 2, "--weight", 1)
    three = (clips / "a.wav", clips / "b.wav", clips / "d.wav")
    work("interpolate", *three, "--out", tmp_path, *weights, "--checkpoint", checkpoint, "--quality", "draft")
    assert names(tmp_path) == ["blend.wav", "path.json", "path.png"]
    assert Audio.load(tmp_path / "blend.wav").channels == 2


def test_a_curve_makes_one_file_that_starts_as_one_clip_and_ends_as_the_other(
    checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    curve = ("--curve", "0:0,0.5:0,1:1", "--fit", "trim")
    two = (clips / "a.wav", clips / "c.flac")
    work("interpolate", *two, "--out", tmp_path, *curve, "--checkpoint", checkpoint, "--quality", "draft")
    assert names(tmp_path) == ["curve.wav", "path.json", "path.png"]
    assert Audio.load(tmp_path / "curve.wav").samples == 6_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", 3, "--weight", 0.5), "only one of these can be given"),
        (("--weight", 0.5, "--curve", "0:0,1:1"), "only one of these can be given"),
        (("--steps", 1), "greater than or equal to 2"),
        (("--weight", 0.5, "--weight", 0.5), "the same one is given twice"),
        (("--weight", "nan"), "must be -100 to 100"),
        (("--weight", 1e300), "must be -100 to 100"),
        (("--curve", "0:0,half:1"), "'half:1' is not time:weight"),
        (("--path", "round"), "round"),
        (("--nonsense",), "No such option"),
    ],
)
def test_wrong_usage_of_interpolate(clips: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    assert message in misuse("interpolate", clips / "a.wav", clips / "b.wav", "--out", tmp_path / "out", *words)
    assert not list(tmp_path.iterdir())


def test_wrong_numbers_of_clips(clips: Path, tmp_path: Path) -> None:
    a, out = clips / "a.wav", ("--out", tmp_path / "out")
    assert "at least two recordings" in misuse("interpolate", a, *out)
    assert "2 given for 3 recordings" in misuse("interpolate", a, a, a, *out, "--weight", 1, "--weight", 2)
    assert "between two recordings only" in misuse("interpolate", a, a, a, *out, "--curve", "0:0,1:1")
