"""Pictures: what is loud, high and late lies where one looks for it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audiovae.config import SpectrogramConfig
from audiovae.errors import InputError
from audiovae.plots import MAX_PANELS, colours, path_picture, shortened

CONFIG = SpectrogramConfig(n_bands=64)
SILENT = -3.0  # normalised: below every picture's range if something in it is at 3.0


def draw(
    path: Path, spectrograms: list[torch.Tensor], labels: list[str] | None = None, title: str = "a to b"
) -> np.ndarray:
    """The picture's brightness, 0 to 255."""
    labels = labels or [f"{index}" for index in range(len(spectrograms))]
    path_picture(spectrograms, labels, path, config=CONFIG, title=title, seconds=1.0)
    return np.asarray(Image.open(path).convert("RGB")).astype(float).mean(2)


def with_spot(band: int, frame: int) -> torch.Tensor:
    """Silence but for one loud point and its neighbours."""
    spectrogram = torch.full((64, 80), SILENT)
    spectrogram[band - 2 : band + 3, frame - 2 : frame + 3] = 3.0
    return spectrogram


def brightest(picture: np.ndarray) -> tuple[float, float]:
    """Middle of the brightest points, as shares of height from below and width from the left."""
    inside = picture[60:-45, 76:-88]  # without title, labels, frequencies, colour scale
    rows, columns = np.nonzero(inside >= inside.max() - 1)
    return 1 - rows.mean() / inside.shape[0], columns.mean() / inside.shape[1]


@pytest.mark.parametrize(("band", "frame"), [(5, 10), (5, 70), (58, 10), (58, 70)])
def test_low_bands_are_at_the_bottom_and_time_runs_to_the_right(tmp_path: Path, band: int, frame: int) -> None:
    height, width = brightest(draw(tmp_path / "a.png", [with_spot(band, frame)]))
    assert height == pytest.approx(band / 64, abs=0.04)
    assert width == pytest.approx(frame / 80, abs=0.04)


def test_panels_stand_in_order_and_their_widths_show_their_lengths(tmp_path: Path) -> None:
    quiet = torch.full((64, 240), SILENT)
    _, width = brightest(draw(tmp_path / "a.png", [quiet, with_spot(30, 40)]))
    assert width == pytest.approx(0.75 + 0.25 / 2, abs=0.03)  # the middle of the last quarter


def test_the_same_sound_looks_the_same_beside_any_other_that_is_not_louder(tmp_path: Path) -> None:
    one = draw(tmp_path / "a.png", [with_spot(30, 40), with_spot(10, 20)])
    other = draw(tmp_path / "b.png", [with_spot(30, 40), with_spot(50, 60)])
    middle = one.shape[1] // 2
    assert np.array_equal(one[60:380, 76 : middle - 20], other[60:380, 76 : middle - 20])
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 9, 33, 100])
def test_any_number_of_sounds_fits_on_a_screen(tmp_path: Path, count: int) -> None:
    labels = [f"{index / max(1, count - 1):.2f}" for index in range(count)]
    picture = draw(tmp_path / "a.png", [with_spot(30, 40)] * count, labels)
    assert picture.shape[0] < 500
    assert 400 < picture.shape[1] < 1800


def test_beyond_the_largest_number_the_first_and_the_last_are_shown(tmp_path: Path) -> None:
    quiet = torch.full((64, 80), SILENT)
    many = [with_spot(30, 40), *[quiet] * (3 * MAX_PANELS), with_spot(30, 40)]
    inside = draw(tmp_path / "a.png", many)[60:-45, 76:-88]
    columns = np.nonzero((inside >= inside.max() - 1).any(0))[0] / inside.shape[1]
    assert columns.min() < 0.05 and columns.max() > 0.95
    assert not ((columns > 0.05) & (columns < 0.95)).any()


def test_long_titles_and_silence_are_drawn(tmp_path: Path) -> None:
    silence = draw(tmp_path / "a.png", [torch.full((64, 8), SILENT)] * 2, title="a very long name " * 40)
    assert silence.max() > 200  # the words
    panels = silence[100:300, 200:-200]
    assert panels.max() < 30  # dark, not the colour of the loudest


def test_colours_run_from_dark_to_bright_and_stop_at_the_ends() -> None:
    brightness = colours(np.linspace(0, 1, 256)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > -0.5).all()  # never darker, but for rounding
    assert brightness[0] < 5 and brightness[-1] > 230
    assert np.array_equal(colours(np.array([-1.0, 2.0])), colours(np.array([0.0, 1.0])))


def test_shortened_averages_frames() -> None:
    frames = torch.arange(10.0).repeat(3, 1)
    torch.testing.assert_close(shortened(frames, 4)[0], torch.tensor([1.5, 5.5, 8.5]))
    assert torch.equal(shortened(frames, 1), frames)


def test_an_existing_picture_is_refused_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    target.write_text("mine")
    with pytest.raises(InputError, match=r"a\.png: exists already"):
        draw(target, [with_spot(30, 40)])
    assert target.read_text() == "mine"
    with pytest.raises(InputError, match=r"missing/a\.png: can't be written: No such file"):
        draw(tmp_path / "missing" / "a.png", [with_spot(30, 40)])
    assert list(tmp_path.iterdir()) == [target]
