"""Pictures of spectrograms: drawn with Pillow, without matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from audiovae.config import SpectrogramConfig
from audiovae.spectrogram import band_centres_hz, magnitude_db
from audiovae.whole_file import whole_file

RANGE_DB = 80.0
"""From the loudest point of a picture down to black."""
SILENT_DB = -99.0
"""What is softer is the floor of ``magnitude_db`` alone."""
MAX_PANELS = 33
"""More than these would be too narrow to be seen."""
TICKS_HZ = (100, 300, 1000, 3000, 10000)

_COLOURS = np.array(  # magma of matplotlib (S. van der Walt, N. Smith; CC0) at ten equal distances, darkest first
    [
        (0, 0, 4), (24, 15, 61), (68, 15, 118), (114, 31, 129), (158, 47, 127),
        (205, 64, 113), (241, 96, 93), (253, 150, 104), (254, 202, 141), (252, 253, 191),
    ],
    dtype=np.float64,
)  # fmt: skip
_BACKGROUND, _TEXT, _FAINT = (18, 18, 24), (235, 235, 240), (150, 150, 165)
_PANEL_HEIGHT, _GAP, _TOTAL_WIDTH, _PANEL_WIDTHS = 320, 4, 1480, (36, 420)  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 86, 58, 40  # margins for frequencies, colour scale, title, labels


def path_picture(
    spectrograms: Sequence[Float[Tensor, "n_bands _"]],
    labels: Sequence[str],
    path: Path,
    *,
    config: SpectrogramConfig,
    title: str,
    seconds: float,
    force: bool = False,
) -> None:
    """Draws normalised spectrograms side by side, low bands at the bottom, and writes a PNG whole or not at all.

    Widths show lengths; ``seconds`` is the duration of the longest. Beyond ``MAX_PANELS`` evenly chosen ones are
    shown, the first and the last among them. Raises InputError if the file exists and ``force`` is off.
    """
    note = f"longest: {seconds:.2f} s.  Colours: dB below the loudest point"
    picture = draw_spectrograms(spectrograms, labels, config=config, title=title, note=note)
    with whole_file(path, force=force) as temporary:
        picture.save(temporary, format="PNG")


def draw_spectrograms(
    spectrograms: Sequence[Float[Tensor, "n_bands _"]],
    labels: Sequence[str],
    *,
    config: SpectrogramConfig,
    title: str = "",
    note: str = "",
) -> Image.Image:
    """The picture of ``path_picture``, in memory."""
    chosen = _evenly(len(spectrograms), MAX_PANELS)
    levels = [magnitude_db(spectrograms[index].float(), config) for index in chosen]
    top_db = max(float(level.max()) for level in levels)
    if top_db < SILENT_DB:  # silence is dark, though it is the loudest there
        top_db += RANGE_DB
    widths = _widths([level.shape[1] for level in levels])
    size = (_LEFT + sum(widths) + _GAP * (len(widths) - 1) + _RIGHT, _TOP + _PANEL_HEIGHT + _BOTTOM)
    picture = Image.new("RGB", size, _BACKGROUND)
    lefts = [_LEFT + sum(widths[:index]) + _GAP * index for index in range(len(widths))]
    for level, left, width in zip(levels, lefts, widths, strict=True):
        picture.paste(_panel(level, top_db, width), (left, _TOP))
    _write_title(picture, title, note)
    _write_labels(picture, [labels[index] for index in chosen], lefts, widths)
    _write_frequencies(picture, config)
    _draw_scale(picture)
    return picture


def shortened(spectrogram: Float[Tensor, "n_bands frames"], factor: int) -> Float[Tensor, "n_bands _"]:
    """Averages every ``factor`` frames, since no picture shows the hundred thousands of a long recording."""
    return torch.nn.functional.avg_pool1d(spectrogram, factor, ceil_mode=True)


def colours(share: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Colours for values from 0 (dark) to 1 (bright), equally far apart to the eye; beyond them the ends."""
    position = np.clip(share, 0, 1) * (len(_COLOURS) - 1)
    lower = np.minimum(position.astype(int), len(_COLOURS) - 2)
    between = (position - lower)[..., None]
    return (_COLOURS[lower] * (1 - between) + _COLOURS[lower + 1] * between).round().astype(np.uint8)


def _evenly(count: int, most: int) -> list[int]:
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most))})


def _widths(frames: list[int]) -> list[int]:
    """Pixels of each panel, in proportion to its frames where that leaves enough to be seen."""
    smallest, largest = _PANEL_WIDTHS
    available = min(_TOTAL_WIDTH - _GAP * (len(frames) - 1), largest * len(frames))
    return [max(smallest, round(available * count / sum(frames))) for count in frames]


def _panel(level_db: Float[Tensor, "n_bands frames"], top_db: float, width: int) -> Image.Image:
    share = (1 + (level_db.flip(0) - top_db) / RANGE_DB).clamp_min(0).numpy()
    # Scaled before it is coloured: colours between two others would not be on the scale.
    scaled = Image.fromarray(share).resize((width, _PANEL_HEIGHT), Image.Resampling.BILINEAR)
    return Image.fromarray(colours(np.asarray(scaled, dtype=np.float64)))


def _write_title(picture: Image.Image, title: str, note: str) -> None:
    draw = ImageDraw.Draw(picture)
    width = picture.width - 2 * 16
    # File names may hold newlines, and bytes that are no text.
    title = "".join(character if character.isprintable() else "?" for character in title)
    font = ImageFont.load_default(17)
    while draw.textlength(title, font) > width and len(title) > 4:
        title = title[:-4].rstrip() + "..."
    draw.text((16, 9), title, _TEXT, font)
    if draw.textlength(note, ImageFont.load_default(12)) <= width:
        draw.text((16, 33), note, _FAINT, ImageFont.load_default(12))


def _write_labels(picture: Image.Image, labels: list[str], lefts: list[int], widths: list[int]) -> None:
    """Under the panels' middles; every second or third only where they would touch, and the last always."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    widest = max(draw.textlength(label, font) for label in labels) + 8
    every = int(np.ceil(widest / (min(widths) + _GAP)))
    last = len(labels) - 1
    for index, label in enumerate(labels):
        if index == last or (index % every == 0 and last - index >= every):
            middle = lefts[index] + widths[index] / 2
            draw.text((middle, _TOP + _PANEL_HEIGHT + 9), label, _TEXT, font, anchor="ma")


def _write_frequencies(picture: Image.Image, config: SpectrogramConfig) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    centres = band_centres_hz(config).numpy()
    below = float(_TOP + _PANEL_HEIGHT)
    for tick in TICKS_HZ:
        band = float(np.interp(tick, centres, np.arange(len(centres)))) + 0.5
        y = _TOP + _PANEL_HEIGHT * (1 - band / len(centres))
        if centres[0] < tick < centres[-1] and below - y > 14:
            below = y
            draw.line((_LEFT - 7, y, _LEFT - 3, y), _FAINT)
            text = f"{tick} Hz" if tick < 1000 else f"{tick // 1000} kHz"
            draw.text((_LEFT - 11, y), text, _FAINT, font, anchor="rm")


def _draw_scale(picture: Image.Image) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    left = picture.width - _RIGHT + 20
    shares = np.repeat(np.linspace(1, 0, _PANEL_HEIGHT)[:, None], 12, axis=1)
    picture.paste(Image.fromarray(colours(shares)), (left, _TOP))
    for db in range(0, -int(RANGE_DB) - 1, -20):
        y = _TOP - db / RANGE_DB * (_PANEL_HEIGHT - 1)
        draw.text((left + 18, y), f"{db} dB", _FAINT, font, anchor="lm")
