"""What is known of one date: aggregates from the tables, and the few images that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.past_runs import table_of_runs
from steel_batch.drift.compare import Comparison, Drift, LineDays
from steel_batch.drift.series import ask, quoted
from steel_batch.drift.words import images_sql
from steel_batch.errors import ConfigError
from steel_batch.exports.selection import Image
from steel_batch.lake import Lake
from steel_batch.report.day_figures import DayFigures
from steel_batch.runs.record import read_runs, runs_of

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


def read_facts(lake: Lake, figures: DayFigures, *, why: str) -> DayFacts:
    """Everything that a page about a date says.

    Args:
        lake: Where the store lies.
        figures: The date's figures.
        why: Why it is this engine's rows.

    Raises:
        ConfigError: The date has neither rows nor images in quarantine.
        LakeError: A table, or a record of the date's runs, cannot be read.
    """
    date, engine, against, of_day = figures.date, figures.engine, figures.against, figures.of_day
    store = figures.store
    if not figures.images and not figures.quarantine:
        raise ConfigError(
            f"engine {engine} has no rows of {date}. {_lists_rows(store)} the dates and engines "
            "that have rows."
        )
    if against is not None and not any(line.images_T[0] for line in figures.lines):
        raise ConfigError(f"engine {engine} has no rows of {against} to compare {date} with.")
    shown = [
        (drift, _images(store, of_day, _keys(store, images_sql(drift, engine, date))))
        for drift in figures.comparison.drifts[:MOST_DRIFTS_SHOWN]
    ]
    return DayFacts(
        date=date,
        engine=engine,
        why=why,
        dates=figures.dates,
        against=against,
        classes=figures.classes,
        lines=figures.lines,
        comparison=figures.comparison,
        areas=ask(
            store,
            "SELECT class_id, line, num_defective, area_p50_px, area_p95_px, area_sum_px "  # noqa: S608 - quoted
            f"FROM class_summaries WHERE {of_day} ORDER BY class_id, len(line), line",
        ),
        hours=_hours(store, of_day, len(figures.classes)),
        runs=_runs(lake, engine, date),
        quarantine=figures.quarantine,
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


def engine_of(store: OpenStore, date: str) -> tuple[str, str]:
    """The engine whose rows of a date count, and why.

    If all images of the date are in quarantine, it is the last engine that tried.

    Raises:
        ConfigError: No engine has rows of the date or images in quarantine.
    """
    layout.check_date(date)
    found = ask(
        store,
        f"SELECT engine, why FROM current WHERE date = DATE '{date}'",  # noqa: S608 - a date
    ) or ask(
        store,
        "SELECT engine, 'newest' FROM quarantine "  # noqa: S608 - a date
        f"WHERE date = DATE '{date}' "
        'GROUP BY 1 ORDER BY max("at") DESC, 1 LIMIT 1',
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


def _runs(lake: Lake, engine: str, date: str) -> list[dict[str, Any]]:
    """Rows of the view `runs`; only the records of these runs are read."""
    runs = list(read_runs(lake, runs_of(lake, engine, date)))
    return [
        row | {"steps": {} if run.result is None else run.result.attempt_seconds}
        for run, row in zip(runs, table_of_runs(lake, runs, is_past=False).to_pylist(), strict=True)
    ]


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
