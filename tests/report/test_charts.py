"""Charts begin at zero, keep within their frame, and escape what they are given."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.report.charts import (
    WIDTH_PX,
    Interval,
    Series,
    interval_chart,
    ticks_to,
    trend_chart,
    wilson,
)

EVIL = '<script>alert("1")</script>&'


@given(st.floats(0, 1e9, allow_subnormal=False))
def test_ticks_are_a_few_round_numbers_from_zero_to_beyond(highest: float) -> None:
    ticks = ticks_to(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("found", "images", "low", "high"),
    [(0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (5, 10, 0.237, 0.763), (31, 100, 0.228, 0.406)],
)
def test_intervals_are_those_of_the_textbook(
    found: int, images: int, low: float, high: float
) -> None:
    assert wilson(found, images) == pytest.approx((low, high), abs=0.001)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=40))
def test_a_trend_stays_within_its_frame(values: list[float | None]) -> None:
    places = [f"2026-11-{day:02}" for day in range(1, len(values) + 1)]
    text = trend_chart("a", places, [Series(name="a", values=values)])
    height = int(re.findall(rf'viewBox="0 0 {WIDTH_PX} (\d+)"', text)[0])
    points = [
        tuple(map(float, point.split(",")))
        for line in re.findall(r'points="([^"]+)"', text)
        for point in line.split()
    ]
    assert len(points) == sum(value is not None for value in values)
    for x, y in points:
        assert 0 <= x <= WIDTH_PX
        assert 0 <= y <= height


def test_a_single_day_is_seen() -> None:
    text = trend_chart("a", ["x", "y"], [Series(name="a", values=[None, 0.5])])
    assert text.count("<circle") == 1
    assert "<polyline" in text


def test_a_gap_is_not_drawn_over() -> None:
    text = trend_chart("a", list("xyz"), [Series(name="a", values=[0.1, None, 0.5])])
    assert text.count("<polyline") == 2


def test_titles_units_and_names_are_written_and_escaped() -> None:
    both = [Series(name=EVIL, values=[0.1, 0.2]), Series(name="b", values=[0.2, 0.1])]
    for text in (
        trend_chart(EVIL, [EVIL, "b"], both),
        interval_chart(EVIL, [Interval(label=EVIL, value=0.1, low=0.0, high=0.3, before=0.2)]),
    ):
        assert "<script" not in text
        assert "% of images" in text
        assert "&lt;script&gt;" in text


def test_an_interval_chart_has_a_dot_and_a_ring_on_one_axis() -> None:
    rows = [Interval(label="1", value=0.5, low=0.25, high=1.0, before=0.0)]
    text = interval_chart("a", rows)
    dot, ring = (float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', text))
    line = [
        float(x) for x in re.findall(r'<line class="s0"[^>]* x1="([\d.]+)" x2="([\d.]+)"', text)[0]
    ]
    zero = float(re.findall(r'<line class="axis" x1="([\d.]+)"', text)[0])
    assert ring == zero
    assert line[0] < dot < line[1]
    assert dot - zero == pytest.approx((line[1] - zero) / 2, abs=0.2)
