"""The figures of days, from a store's tables: aggregates, whatever the number of images."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from steel_batch import layout, schema
from steel_batch.answers.open_store import OpenStore
from steel_batch.drift.compare import MEASURES, LineDays


def days_before(store: OpenStore, engine: str, date: str, num_days: int) -> list[str]:
    """Those of the days before a date that an engine has rows of, the oldest first."""
    last = datetime.date.fromisoformat(layout.check_date(date))
    first = last - datetime.timedelta(days=min(num_days, last.toordinal() - 1))
    found = ask(
        store,
        f"SELECT DISTINCT date FROM class_summaries WHERE engine = {quoted(engine)} "  # noqa: S608 - quoted
        f"AND date >= DATE '{first}' AND date < DATE '{last}' ORDER BY 1",
    )
    return [str(day) for (day,) in found]


def read_days(store: OpenStore, engine: str, dates: Sequence[str]) -> list[LineDays]:
    """The figures of every line that has images on one of some dates, in their order.

    Args:
        store: The store.
        engine: Whose rows.
        dates: The days; the last is the one that will be judged.
    """
    chosen = ", ".join(f"DATE '{layout.check_date(date)}'" for date in dates)
    of_days = f"WHERE engine = {quoted(engine)} AND date IN ({chosen})"
    summaries = ask(
        store,
        "SELECT line, date, class_id, num_images, num_defective, peak_histogram "  # noqa: S608 - quoted
        f"FROM class_summaries {of_days}",
    )
    looks = ask(
        store,
        "SELECT line, date, count(brightness), "  # noqa: S608 - quoted
        + ", ".join(f"avg({name}), stddev_pop({name})" for name in MEASURES)
        + f" FROM predictions {of_days} GROUP BY ALL",
    )
    places = {date: place for place, date in enumerate(dates)}
    num_classes = max((row[2] for row in summaries), default=0)
    names = {row[0] for row in summaries}
    lines = {name: _nothing(name, len(dates), num_classes) for name in sorted(names, key=_order)}
    for name, date, class_id, num_images, num_found, histogram in summaries:
        line, day = lines[name], places[str(date)]
        line.images_T[day] = num_images
        line.found_TC[day, class_id - 1] = num_found
        line.histogram_TCB[day, class_id - 1] = histogram
    for name, date, num, *values in looks:
        if num and name in lines:
            line, day = lines[name], places[str(date)]
            line.measured_T[day] = num
            line.mean_TM[day], line.deviation_TM[day] = values[::2], values[1::2]
    return list(lines.values())


def ask(store: OpenStore, sql: str) -> list[tuple[Any, ...]]:
    """The few rows of a question.

    Raises:
        ConfigError: The SQL is wrong.
        LakeError: There is no such table yet, or a file cannot be read.
    """
    store.prepare(sql)
    return store.fetch(sql)


def quoted(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _order(line: str | None) -> tuple[bool, int, str]:
    """Numbers by their size, and images without a line last."""
    return line is None, len(line or ""), line or ""


def _nothing(line: str | None, num_days: int, num_classes: int) -> LineDays:
    def zeros(*shape: int, kind: Any = np.int64) -> Any:
        return np.zeros((num_days, *shape), kind)

    return LineDays(
        line=line, images_T=zeros(), found_TC=zeros(num_classes),
        histogram_TCB=zeros(num_classes, schema.PEAK_BINS), measured_T=zeros(),
        mean_TM=zeros(len(MEASURES), kind=np.float64),
        deviation_TM=zeros(len(MEASURES), kind=np.float64),
    )  # fmt: skip
