"""Decoded audio that is read where it lies, and the shares by which folders are drawn."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from audiovae.config import Config
from audiovae.errors import InputError
from audiovae.training import decoded
from audiovae.training.data import open_cache
from audiovae.training.decoded import DECODED_AUDIO, DECODED_INDEX, Source, drawing_lengths, top_folder
from audiovae.training.segments import Segments

TINY = Path(decoded.__file__).parents[1] / "configs" / "tiny.toml"
SECONDS = {"music/train/a.opus": 2, "music/valid/b.opus": 2, "notes/train/c.flac": 6, "scores/train/d.flac": 10}


def config_of(*overrides: str) -> Config:
    return Config.from_toml(TINY, ["data.gain_db=0.0", "data.pitch_share=0.0", *overrides])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings: each sample of the first is 1000, of the second 2000, and so on."""
    folder, sources, offset = tmp_path / "corpus", [], 0
    folder.mkdir()
    for path, seconds in SECONDS.items():
        samples = 44_100 * seconds
        sources.append({"path": path, "offset": offset, "samples": samples, "level_db": -20.0})
        offset += samples
    np.repeat(np.arange(1, 5) * 1000, [44_100 * seconds for seconds in SECONDS.values()]).astype("<i2").tofile(
        folder / DECODED_AUDIO
    )
    (folder / DECODED_INDEX).write_text(json.dumps({"sample_rate": 44_100, "sources": sources}))
    return folder


def drawn(folder: Path, split: str, config: Config, *, count: int = 2000) -> dict[int, float]:
    """Share of the segments that came from each recording, by the value of its samples."""
    segments = Segments(open_cache(folder, folder / "none", config), split, config, augment=True)
    values = Counter(round(float(segments[index].waveform[0]) * 32.767) for index in range(count))
    return {value: number / count for value, number in values.items()}


def test_is_read_in_place_with_the_splits_of_its_folders(folder: Path) -> None:
    cache = open_cache(folder, folder.parent / "cache", config_of())
    assert cache.audio == folder / DECODED_AUDIO
    assert [source.path for source in cache.split("valid")] == ["music/valid/b.opus"]
    assert len(cache.split("train")) == 3
    assert not (folder.parent / "cache").exists()
    assert Segments(cache, "valid", config_of(), augment=False)[0].waveform[7] == np.float32(2000 / 32767)


def test_without_shares_every_second_is_equally_likely(folder: Path) -> None:
    shares = drawn(folder, "train", config_of())
    assert shares == {
        1: pytest.approx(2 / 18, abs=0.03),
        3: pytest.approx(6 / 18, abs=0.04),
        4: pytest.approx(10 / 18, abs=0.04),
    }


def test_a_folder_has_the_share_it_was_given_and_the_rest_goes_by_length(folder: Path) -> None:
    shares = drawn(folder, "train", config_of("data.shares={music=0.5}"))
    assert shares == {
        1: pytest.approx(0.5, abs=0.04),
        3: pytest.approx(3 / 16, abs=0.03),
        4: pytest.approx(5 / 16, abs=0.04),
    }
    assert drawn(folder, "valid", config_of("data.shares={music=0.5}"), count=20) == {2: 1.0}
    assert set(drawn(folder, "train", config_of("data.shares={music=0.5, notes=0.5}"), count=200)) == {1, 3}


def test_lengths_keep_the_whole_so_that_shares_are_exact() -> None:
    sources = [Source("a/x", 0, 1000, 0.0), Source("a/y", 0, 3000, 0.0), Source("b/z", 0, 96_000, 0.0)]
    assert [top_folder(source) for source in sources] == ["a", "a", "b"]
    assert drawing_lengths(sources, {}) == [1000, 3000, 96_000]
    assert drawing_lengths(sources, {"a": 0.5}) == [12_500, 37_500, 50_000]
    assert drawing_lengths(sources[:2], {"b": 0.5}) == [1000, 3000]


def test_what_cannot_be_trained_on_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    def refusal(*overrides: str) -> str:
        with pytest.raises(InputError) as error:
            open_cache(folder, tmp_path / "cache", config_of(*overrides))
        return str(error.value)

    assert refusal("data.shares={speech=0.5}") == f"{folder}: data.shares: nothing to train on in a folder speech"
    assert "holds audio at 44100 Hz, the config wants 22050 Hz" in refusal(
        "spectrogram.sample_rate=22050", "spectrogram.f_max=11025.0"
    )
    with (folder / DECODED_AUDIO).open("ab") as audio:
        audio.truncate(1000)
    assert refusal().startswith(f"{folder / DECODED_AUDIO}: not the 1764000 bytes that it should hold")
    (folder / DECODED_INDEX).write_text("[]")
    assert refusal().startswith(f"{folder / DECODED_INDEX}: not an index of decoded audio")
    (folder / DECODED_INDEX).unlink()
    assert refusal() == f"{folder}: its rendering was not finished: run the same command again, it goes on"


def test_shares_of_more_than_the_whole_are_refused() -> None:
    with pytest.raises(InputError, match=r"shares add up to 1\.2, more than 1"):
        config_of("data.shares={a=0.6, b=0.6}")


def test_shares_can_be_changed_when_a_run_resumes() -> None:
    config = config_of("data.shares={music=0.5}").with_overrides(["data.shares={notes=0.25}", "training.steps=7"])
    assert (config.data.shares, config.training.steps) == ({"notes": 0.25}, 7)
    assert Config.from_json(config.model_dump_json(), "test") == config


@pytest.mark.parametrize(
    "damage", [{"samples": -5}, {"offset": 7}, {"level_db": None}, {"path": ""}, {"more": 1}], ids=str
)
def test_an_index_that_cannot_be_true_is_told_in_one_line(folder: Path, damage: dict[str, object]) -> None:
    content = json.loads((folder / DECODED_INDEX).read_text())
    content["sources"][1] |= damage
    (folder / DECODED_INDEX).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"decoded\.json: not an index of decoded audio: .") as told:
        open_cache(folder, folder / "none", config_of())
    assert "\n" not in str(told.value)
