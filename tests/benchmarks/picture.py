"""A picture of curves over a logarithmic axis, as SVG: small, sharp, and readable as text."""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 460, 340, 56, 40, 16, 52  # of a panel, and its margins, in pixels


@dataclass(frozen=True)
class Curve:
    """Points of x and y, in the order they are joined."""

    name: str
    points: list[tuple[float, float]]


def write_curves(path: Path, x_title: str, panels: dict[str, list[Curve]]) -> None:
    """One panel of curves beside the other, under their titles; all with the same logarithmic x axis."""
    xs = [x for curves in panels.values() for curve in curves for x, _ in curve.points]
    parts = [_panel(title, x_title, curves, (min(xs), max(xs))) for title, curves in panels.items()]
    moved = [f'<g transform="translate({index * WIDTH} 0)">{part}</g>' for index, part in enumerate(parts)]
    size = f'width="{WIDTH * len(parts)}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{background}{"".join(moved)}</svg>\n')


def _panel(title: str, x_title: str, curves: list[Curve], x_range: tuple[float, float]) -> str:
    ys = [y for curve in curves for _, y in curve.points]
    step = _step(max(ys) - min(ys))
    y_range = math.floor(min(ys) / step) * step, math.ceil(max(ys) / step) * step

    def x_place(x: float) -> float:
        low, high = map(math.log, x_range)
        return LEFT + (math.log(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y_place(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    drawn = [_text(LEFT, 22, title, weight="bold"), _text(WIDTH / 2, HEIGHT - 10, x_title, anchor="middle")]
    for tick in (value * 10**power for power in range(7) for value in (1, 2, 5)):
        if x_range[0] <= tick <= x_range[1]:
            drawn.append(_line([(x_place(tick), TOP), (x_place(tick), HEIGHT - BOTTOM)], "#e5e5e5"))
            drawn.append(_text(x_place(tick), HEIGHT - BOTTOM + 18, f"{tick}", anchor="middle"))
    for index in range(round((y_range[1] - y_range[0]) / step) + 1):
        tick = y_range[0] + index * step
        drawn.append(_line([(LEFT, y_place(tick)), (WIDTH - RIGHT, y_place(tick))], "#e5e5e5"))
        drawn.append(_text(LEFT - 8, y_place(tick) + 4, f"{tick:.10g}", anchor="end"))
    for index, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        places = [(x_place(x), y_place(y)) for x, y in curve.points]
        drawn.append(_line(places, colour, width=2))
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        drawn.append(_text(WIDTH - RIGHT - 130, TOP + 16 + 16 * index, curve.name, colour=colour, weight="bold"))
    return "".join(drawn)


def _step(span: float) -> float:
    """A round number that divides a span into about six."""
    power = 10 ** math.floor(math.log10(span / 6))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(span / step - 6))


def _line(places: list[tuple[float, float]], colour: str, *, width: float = 1) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f"<text {place}>{escape(text)}</text>"
