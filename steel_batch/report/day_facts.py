"""What is known of one date: aggregates from the tables, and the few images that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.drift.compare import Comparison, Drift, LineDays, compare
from steel_batch.drift.series import ask, days_before, quoted, read_days
from steel_batch.drift.words import images_sql
from steel_batch.errors import ConfigError
from steel_batch.exports.selection import Image
from steel_batch.lake import Lake
from steel_batch.runs.record import read_run

DAYS_BEFORE: Final = 28
"""That a date is compared with, unless others are asked for."""
NUM_SHOWN: Final = 6
"""Images of the worst, and as many of the most doubtful."""
MOST_DRIFTS_SHOWN: Final = 4
"""Drifts that have images."""
_HOUR: Final = "coalesce(tags['hour'], left(tags['time'], 2))"


@dataclass(frozen=True, kw_only=True, slots=True)
class DayFacts:
    """One engine's rows of one date, next to the days before."""

    date: str
    engine: str
    why: str
    """Why it is this engine's rows."""
    dates: tuple[str, ...]
    """The days that are compared, the date being the last."""
    against: str | None
    """The one date that was asked to compare with."""
    classes: Mapping[int, str]
    lines: Sequence[LineDays]
    comparison: Comparison
    areas: Sequence[tuple[Any, ...]]
    """Class, line, images with it, lower median and 95th percentile of their areas, its sum; px."""
    hours: Sequence[tuple[Any, ...]]
    """Hour, images, and a list of images per class; empty where keys have no hour."""
    runs: Sequence[Mapping[str, Any]]
    """Rows of the view `runs`, and ``steps``: seconds by step."""
    quarantine: Sequence[tuple[Any, ...]]
    """Code, images, and the key and message of one."""
    worst: Sequence[Image]
    doubtful: Sequence[tuple[Image, str]]
    """Each with why."""
    of_drifts: Sequence[tuple[Drift, Sequence[Image]]]

    @property
    def num_images(self) -> int:
        """Images of the date that have rows."""
        return int(sum(line.images_T[-1] for line in self.lines))

    @property
    def num_quarantined(self) -> int:
        """Images of the date that could not be scored."""
        return sum(row[1] for row in self.quarantine)


def read_facts(
    lake: Lake,
    store: OpenStore,
    date: str,
    *,
    engine: str | None,
    against: str | None,
    num_days: int,
) -> DayFacts:
    """Everything that a page about a date says.

    Args:
        lake: Where the store lies.
        store: The store.
        date: The date.
        engine: Whose rows; by default those of the engine in the view `current`.
        against: The date to compare with; by default the days before.
        num_days: How many days before.

    Raises:
        ConfigError: There are no such rows.
    """
    layout.check_date(date)
    if engine is None:
        engine, why = _current(store, date)
    else:
        why = "as asked"
    before = days_before(store, engine, date, num_days)
    if against is not None:
        layout.check_date(against)
        if against == date:
            raise ConfigError(f"--against {against} is the date itself: give another.")
        before = [against]
    dates = (*before, date)
    lines = read_days(store, engine, dates)
    if not any(line.images_T[-1] for line in lines):
        raise ConfigError(
            f"engine {engine} has no rows of {date}. {_lists_rows(store)} the dates and engines "
            "that have rows."
        )
    if against is not None and not any(line.images_T[0] for line in lines):
        raise ConfigError(f"engine {engine} has no rows of {against} to compare {date} with.")
    found = compare(lines)
    of_day = f"engine = {quoted(engine)} AND date = DATE '{date}'"
    classes = store.classes(engine)
    shown = [
        (drift, _images(store, of_day, _keys(store, images_sql(drift, engine, date))))
        for drift in found.drifts[:MOST_DRIFTS_SHOWN]
    ]
    return DayFacts(
        date=date,
        engine=engine,
        why=why,
        dates=dates,
        against=against,
        classes=classes,
        lines=lines,
        comparison=found,
        areas=ask(
            store,
            "SELECT class_id, line, num_defective, area_p50_px, area_p95_px, area_sum_px "  # noqa: S608 - quoted
            f"FROM class_summaries WHERE {of_day} ORDER BY class_id, len(line), line",
        ),
        hours=_hours(store, of_day, len(classes)),
        runs=[
            run | {"steps": _steps(lake, run["run_id"])}
            for run in _rows(
                store,
                f"SELECT * FROM runs WHERE {of_day} ORDER BY created_at, run_id",  # noqa: S608 - quoted
            )
        ],
        quarantine=_quarantine(store, of_day),
        worst=_images(
            store,
            of_day,
            _keys(
                store,
                "SELECT image_key, sum(area_px) AS area FROM defects "  # noqa: S608 - quoted
                f"WHERE {of_day} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {NUM_SHOWN}",
            ),
        ),
        doubtful=_doubtful(store, of_day),
        of_drifts=shown,
    )


def _current(store: OpenStore, date: str) -> tuple[str, str]:
    found = ask(
        store,
        f"SELECT engine, why FROM current WHERE date = DATE '{date}'",  # noqa: S608 - a date
    )
    if not found:
        raise ConfigError(
            f"no engine has rows of {date}. {_lists_rows(store)} the dates that have rows."
        )
    return str(found[0][0]), str(found[0][1])


def _lists_rows(store: OpenStore) -> str:
    return f"{store.command('query', 'FROM current')} lists"


def _rows(store: OpenStore, sql: str) -> list[dict[str, Any]]:
    with store.answering():
        rows: list[dict[str, Any]] = store.sql(sql).to_arrow_table().to_pylist()
    return rows


def _steps(lake: Lake, run_id: str) -> dict[str, float]:
    """What each step of a run took, in seconds."""
    result = read_run(lake, run_id).result
    return {} if result is None else result.attempt_seconds


def _keys(store: OpenStore, sql: str) -> list[str]:
    return [row[0] for row in ask(store, sql)]


def _images(store: OpenStore, of_day: str, keys: Sequence[str]) -> list[Image]:
    """The rows of some images, in the order of their keys."""
    if not keys:
        return []
    wanted = ", ".join(map(quoted, keys))
    rows = _rows(
        store,
        "SELECT image_key, engine, run_id, bytes, width, height, defects FROM predictions "  # noqa: S608 - quoted
        f"WHERE {of_day} AND image_key IN ({wanted})",
    )
    images = {
        row["image_key"]: Image(
            key=row["image_key"], name=row["image_key"], engine=row["engine"],
            run_id=row["run_id"], bytes=row["bytes"], width=row["width"], height=row["height"],
            defects=row["defects"],
        )
        for row in rows
    }  # fmt: skip
    return [images[key] for key in keys if key in images]


def _hours(store: OpenStore, of_day: str, num_classes: int) -> list[tuple[Any, ...]]:
    counts = ", ".join(
        f"count(*) FILTER (list_contains(list_transform(defects, lambda d: d.class_id), {number}))"
        for number in range(1, num_classes + 1)
    )
    return ask(
        store,
        f"SELECT {_HOUR} AS hour, count(*), [{counts}] FROM predictions "  # noqa: S608 - quoted
        f"WHERE {of_day} AND {_HOUR} IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT 48",
    )


def _quarantine(store: OpenStore, of_day: str) -> list[tuple[Any, ...]]:
    return ask(
        store,
        "SELECT error_code, count(*), min(image_key), arg_min(message, image_key) "  # noqa: S608 - quoted
        f"FROM quarantine WHERE {of_day} GROUP BY 1 ORDER BY 2 DESC, 1",
    )


def _doubtful(store: OpenStore, of_day: str) -> list[tuple[Image, str]]:
    """Images whose peak of some class is closest to the threshold, on either side."""
    rows = ask(
        store,
        "SELECT image_key, arg_min(class_name, abs(margin)), arg_min(peak, abs(margin)), "  # noqa: S608 - quoted
        "arg_min(threshold, abs(margin)) FROM peaks "
        f"WHERE {of_day} AND margin IS NOT NULL GROUP BY 1 "
        f"ORDER BY min(abs(margin)), 1 LIMIT {NUM_SHOWN}",
    )
    why = {
        key: f"{name}: peak {peak:.3f}, threshold {threshold:g}"
        for key, name, peak, threshold in rows
    }
    return [(image, why[image.key]) for image in _images(store, of_day, list(why))]
