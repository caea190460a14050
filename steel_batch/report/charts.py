"""Charts as SVG, drawn from aggregates: narrow, so that a telephone shows them as they are.

Axes of shares begin at zero. Colours come from the page's style, and differ in lightness too;
series also differ in their dashes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from steel_batch.report.page import NUM_COLORS

WIDTH_PX: Final = 360
_LEFT, _RIGHT, _TOP = 42, 348, 8
_PLOT_PX: Final = 130
_ROW_PX: Final = 20
_DASHES: Final = ("", "6 3", "2 2", "8 3 2 3", "1 3", "10 4", "4 4", "12 2 2 2")
_LONGEST_LABEL: Final = 14


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with what it may be, and what it was."""

    label: str
    value: float
    low: float
    high: float
    before: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A value at each place of the axis; None where there is none."""

    name: str
    values: Sequence[float | None]


def wilson(found: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's, which is sound for few images too)."""
    if not images:
        return 0.0, 1.0
    z = 1.959964
    share, weight = found / images, z * z / images
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def interval_chart(title: str, rows: Sequence[Interval]) -> str:
    """Shares in per cent, one below the other: a dot, its interval, and a ring for before."""
    ticks = ticks_to(100 * max((row.high for row in rows), default=0.0))
    height = _TOP + _ROW_PX * len(rows) + 30
    bottom = height - 30
    left = 104

    def x_of(share: float) -> str:
        return f"{left + (_RIGHT - left) * min(1.0, 100 * share / ticks[-1]):.1f}"

    parts = [
        f'<line class="axis" x1="{x_of(t / 100)}" x2="{x_of(t / 100)}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text x="{x_of(t / 100)}" y="{bottom + 14}" text-anchor="middle">{t:g}</text>'
        for t in ticks
    ]
    for place, row in enumerate(rows):
        y = _TOP + _ROW_PX * place + _ROW_PX // 2
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(_short(row.label))}</text>'
            f'<line class="s0" stroke-width="3" x1="{x_of(row.low)}" x2="{x_of(row.high)}" '
            f'y1="{y}" y2="{y}"/><circle class="f0" r="4.5" cx="{x_of(row.value)}" cy="{y}"/>'
        )
        if row.before is not None:
            parts.append(
                f'<circle class="s1" r="5.5" fill="none" stroke-width="2" '
                f'cx="{x_of(row.before)}" cy="{y}"/>'
            )
    return _figure(title, "".join(parts), height, "% of images")


def trend_chart(
    title: str,
    places: Sequence[str],
    series: Sequence[Series],
    *,
    unit: str = "% of images",
    factor: float = 100.0,
) -> str:
    """Values over days or hours, from zero.

    Args:
        title: What is shown.
        places: Names of the places of the axis.
        series: At most `page.NUM_COLORS`.
        unit: Of the values times `factor`.
        factor: What values are multiplied by.
    """
    known = [value for each in series for value in each.values if value is not None]
    ticks = ticks_to(factor * max(known, default=0.0))
    bottom = _TOP + _PLOT_PX

    def x_of(place: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * place / max(1, len(places) - 1)

    def y_of(value: float) -> float:
        return bottom - _PLOT_PX * value / ticks[-1]

    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{y_of(t):.1f}" y2="{y_of(t):.1f}"/>'
        f'<text x="{_LEFT - 5}" y="{y_of(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    ]
    shown = sorted({0, len(places) - 1} | ({len(places) // 2} if len(places) > 4 else set()))
    for place in shown:
        anchor = "start" if place == 0 and len(places) > 1 else "end"
        anchor = "middle" if 0 < place < len(places) - 1 else anchor
        parts.append(
            f'<text x="{x_of(place):.1f}" y="{bottom + 16}" text-anchor="{anchor}">'
            f"{escape(places[place])}</text>"
        )
    for number, each in enumerate(series[:NUM_COLORS]):
        dash = f' stroke-dasharray="{_DASHES[number]}"' if _DASHES[number] else ""
        for run in _runs(each.values):
            points = " ".join(
                f"{x_of(place):.1f},{y_of(factor * value):.1f}" for place, value in run
            )
            parts.append(
                f'<polyline class="s{number}" fill="none" stroke-width="2"{dash} '
                f'points="{points}"/>'
            )
            place, value = run[-1]
            parts.append(
                f'<circle class="f{number}" r="3" cx="{x_of(place):.1f}" '
                f'cy="{y_of(factor * value):.1f}"/>'
            )
    legend = ""
    if len(series) > 1:
        legend = "<br>" + " ".join(
            f'<span class="key s{number}"></span>{escape(each.name)}'
            for number, each in enumerate(series[:NUM_COLORS])
        )
    return _figure(title, "".join(parts), bottom + 22, unit, legend)


def ticks_to(highest: float) -> list[float]:
    """Three to six round numbers from zero to at least a value."""
    if not highest > 0:
        return [0.0, 0.5, 1.0]
    unit = 10.0 ** math.floor(math.log10(highest))
    step = next(
        unit * part for part in (0.2, 0.25, 0.5, 1.0, 2.0, 2.5) if highest <= unit * part * 5
    )
    return [float(f"{step * number:.6g}") for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _figure(title: str, content: str, height: int, unit: str, legend: str = "") -> str:
    return (
        f'<figure class="chart"><figcaption>{escape(title)}, {escape(unit)}{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg></figure>"
    )


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The places that have values, in pieces without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is not None:
            runs[-1].append((place, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
