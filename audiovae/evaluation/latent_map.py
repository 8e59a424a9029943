"""One picture of the latent spaces: where the clips lie, and what the KL pulls them towards."""

import colorsys
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from audiovae.latents import Latents

PANEL, MARGIN, LEGEND = 380, 40, 230
"""Pixels: side of a model's panel, space around it, width of the legend."""
LEGEND_LINES, POINTS = 18, 1500
"""Clips that are named; points of each model at most."""
_BACKGROUND, _PANEL_COLOUR, _TEXT, _PRIOR = (18, 18, 24), (30, 30, 38), (235, 235, 240), (95, 95, 110)


def latent_map(clips: Mapping[str, Sequence[Latents]], labels: Sequence[str]) -> Image.Image:
    """Latent frames of each model's clips on their two widest principal axes, coloured by label.

    Grey points are as many samples of N(0, I) on the same axes: where clips lie beyond them or leave them empty, the KL
    didn't shape the latents, and only a prior that was learnt from them (``model/prior.py``) draws sounds like theirs.
    """
    colours = _colours(labels)
    size = (MARGIN + len(clips) * (PANEL + MARGIN) + LEGEND, PANEL + 2 * MARGIN)
    picture = Image.new("RGB", size, _BACKGROUND)
    for index, (name, latents) in enumerate(clips.items()):
        panel = _panel(latents, [colours[label] for label in labels])
        left = MARGIN + index * (PANEL + MARGIN)
        picture.paste(panel, (left, MARGIN))
        ImageDraw.Draw(picture).text((left, 12), name, _TEXT, ImageFont.load_default(16))
    _write_legend(picture, colours)
    return picture


def principal_axes(
    points: Float[Tensor, "points channels"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, "channels 2"]]:
    """Mean of the points, and the two orthogonal directions in which they vary most."""
    centre = points.mean(0)
    _, _, axes = torch.linalg.svd(points - centre, full_matrices=False)
    return centre, axes[:2].mT


def _panel(clips: Sequence[Latents], colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    frames = [one.mean[0].mT for one in clips]
    points = torch.cat(frames)
    of_clip = torch.cat([torch.full((len(some),), index) for index, some in enumerate(frames)])
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:POINTS]
    centre, axes = principal_axes(points)
    samples = torch.randn(len(chosen), points.shape[1], generator=torch.Generator().manual_seed(1))
    flat, drawn = (points[chosen] - centre) @ axes, (samples - centre) @ axes
    reach = float(torch.cat([flat, drawn]).abs().quantile(0.995)) * 1.08
    panel = Image.new("RGB", (PANEL, PANEL), _PANEL_COLOUR)
    draw = ImageDraw.Draw(panel)
    dots = [(place, _PRIOR) for place in drawn.tolist()]
    dots += [(place, colours[clip]) for place, clip in zip(flat.tolist(), of_clip[chosen].tolist(), strict=True)]
    for (x, y), colour in dots:
        column, row = (1 + x / reach) * PANEL / 2, (1 - y / reach) * PANEL / 2
        draw.ellipse((column - 2, row - 2, column + 2, row + 2), colour)
    return panel


def _colours(labels: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Hues, evenly apart."""
    names = list(dict.fromkeys(labels))
    hues = [colorsys.hls_to_rgb(index / len(names), 0.62, 0.75) for index in range(len(names))]
    return {name: (round(255 * r), round(255 * g), round(255 * b)) for name, (r, g, b) in zip(names, hues, strict=True)}


def _write_legend(picture: Image.Image, colours: dict[str, tuple[int, int, int]]) -> None:
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    left = picture.width - LEGEND
    lines = [("N(0, I) samples", _PRIOR), *colours.items()]
    for line, (name, colour) in enumerate(lines[:LEGEND_LINES]):
        top = MARGIN + 20 * line
        draw.ellipse((left, top + 3, left + 8, top + 11), colour)
        draw.text((left + 16, top), name.encode("ascii", "replace").decode()[:30], _TEXT, font)
