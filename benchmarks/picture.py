"""A picture of cost against size: curves on two logarithmic axes, as an SVG file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 760, 420, 64, 16, 440, 350
COLORS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#117a65", "#5d6d7e", "#d35400")
DASHES = ("", "6 4", "2 3", "10 4 2 4")


def draw(
    curves: Mapping[tuple[str, str], Mapping[float, float]], *, x: str, y: str, target: Path
) -> None:
    """Draw curves; names differ by color, and variants of a name by their dashes.

    Args:
        curves: By name and variant, values (above 0) by size (above 0).
        x: What a size is.
        y: What a value is, with its unit.
        target: The file.
    """
    names = list(dict.fromkeys(name for name, _ in curves))
    variants = list(dict.fromkeys(variant for _, variant in curves))
    sizes = [size for curve in curves.values() for size in curve]
    values = [value for curve in curves.values() for value in curve.values()]
    (x_low, x_high), (y_low, y_high) = _decades(sizes), _decades(values)

    def x_of(size: float) -> float:
        return LEFT + PLOT_WIDTH * (math.log10(size) - x_low) / (x_high - x_low)

    def y_of(value: float) -> float:
        return TOP + PLOT_HEIGHT * (y_high - math.log10(value)) / (y_high - y_low)

    bottom = TOP + PLOT_HEIGHT
    parts = []
    for decade in range(x_low, x_high + 1):
        place = x_of(10**decade)
        parts.append(_line(place, TOP, place, bottom))
        parts.append(_text(place, bottom + 18, f"{10**decade:,}", "middle"))
    for decade in range(y_low, y_high + 1):
        place = y_of(10**decade)
        parts.append(_line(LEFT, place, LEFT + PLOT_WIDTH, place))
        parts.append(_text(LEFT - 8, place + 4, f"{10.0**decade:,.12g}", "end"))
    parts.append(_text(LEFT + PLOT_WIDTH / 2, bottom + 38, x, "middle"))
    parts.append(_text(LEFT, TOP - 4, y, "start"))
    for row, ((name, variant), curve) in enumerate(curves.items()):
        color = COLORS[names.index(name) % len(COLORS)]
        dash = DASHES[variants.index(variant) % len(DASHES)]
        style = f'stroke="{color}" stroke-width="2" fill="none" stroke-dasharray="{dash}"'
        points = [(x_of(size), y_of(value)) for size, value in sorted(curve.items())]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline {style} points="{path}"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in points
        ]
        key, line = LEFT + PLOT_WIDTH + 20, TOP + 14 + 20 * row
        parts.append(f'<polyline {style} points="{key},{line - 4} {key + 30},{line - 4}"/>')
        parts.append(_text(key + 38, line, f"{name}, {variant}", "start"))
    content = "\n".join(parts)
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{content}\n</svg>\n',
        encoding="utf-8",
    )


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose some values, at least one decade apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
