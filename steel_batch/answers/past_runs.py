"""The view `runs`: the settings, the end and the speed of each run."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.runs.ending import Ending, try_endings
from steel_batch.runs.record import Run, list_runs, read_runs

_TEXTS: Final = pa.map_(pa.string(), pa.string())
FIELDS: Final = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("date", pa.date32(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("created_at", schema.INSTANT),
        pa.field("num_images", pa.int64()),
        pa.field("num_scored", pa.int64()),
        pa.field("num_quarantined", pa.int64()),
        pa.field("num_shards", pa.int64()),
        pa.field("num_resumed_images", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("startup_seconds", pa.float64()),
        pa.field("images_per_second", pa.float64()),
        pa.field("table_version", pa.int64()),
        pa.field("settings", _TEXTS),
        pa.field("config", _TEXTS),
        pa.field("environment", _TEXTS),
    ]
)


def read_all_runs(store: Lake) -> list[Run]:
    """Read every run of a store, by date, engine and number.

    Raises:
        LakeError: A record or a result is damaged.
    """
    return list(read_runs(store, list(list_runs(store))))


def created_at(run: Run) -> datetime.datetime | None:
    """Return when a run's plan was made (UTC); None if the run died earlier."""
    if run.record is None:
        return None
    return datetime.datetime.fromisoformat(run.record.created_at)


def table_of_runs(store: Lake, runs: Sequence[Run], *, is_past: bool) -> pa.Table:
    """Return rows of `FIELDS`.

    Args:
        store: The store.
        runs: The runs.
        is_past: Whether an earlier moment is queried. Events after it are ignored, so runs without
            a result are ``unfinished``.
    """
    endings = [Ending(run.state) for run in runs] if is_past else try_endings(store, runs)
    rows = [_row(run, ending) for run, ending in zip(runs, endings, strict=True)]
    return pa.Table.from_pylist(rows, schema=FIELDS)


def _row(run: Run, ending: Ending | LakeError) -> dict[str, Any]:
    if isinstance(ending, LakeError):
        raise ending
    engine, date, _ = layout.split_run_id(run.run_id)
    row: dict[str, Any] = {
        "run_id": run.run_id, "engine": engine, "date": datetime.date.fromisoformat(date),
        "state": ending.state, "reason": ending.reason, "created_at": created_at(run),
    }  # fmt: skip
    if run.record is not None:
        row |= {"num_images": run.record.num_images, "num_shards": run.record.num_shards}
        row |= {n: _texts(getattr(run.record, n)) for n in ("settings", "config", "environment")}
    if run.result is not None:
        for name in (
            "num_images", "num_scored", "num_quarantined", "num_shards", "num_resumed_images",
            "seconds", "startup_seconds", "images_per_second", "table_version",
        ):  # fmt: skip
            row[name] = getattr(run.result, name)
    return row


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return settings as text, for comparison in queries; None stays null."""
    return [
        (name, value if value is None or isinstance(value, str) else json.dumps(value))
        for name, value in values.items()
    ]
