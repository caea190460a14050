"""Which engine counts for a date, and what the store was before."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steel_batch import layout, schema
from steel_batch.answers.moment import find_moment
from steel_batch.answers.open_store import OpenStore
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake, series
from steel_batch.registry.aliases import AliasEntry
from steel_batch.tables.commit import land
from steel_batch.tables.merge import write_file
from steel_batch.tables.table_log import open_table
from tests.made_up_run import NOW, begin, commit_run, image_keys, merge, score_shards

A, B, C = (f"made-{letter * 12}" for letter in "abc")
UTC = datetime.timezone.utc
RUNS = "SELECT run_id FROM runs WHERE state = 'committed' ORDER BY 1"
BEGIN = datetime.datetime(2026, 11, 1, tzinfo=UTC)


def at(hour: float) -> str:
    return (BEGIN + datetime.timedelta(hours=hour)).isoformat()


def run(store: Lake, engine: str, date: str, hour: float, first: int = 0, num: int = 8) -> str:
    """A run of some images, planned at an hour."""
    done = commit_run(store, image_keys(num, first=first), engine=engine, date=date)
    key = layout.run_file(str(done.run_id), "run.json")
    record = json.loads(store.read(key))
    store.write(key, json.dumps({**record, "created_at": at(hour)}).encode())
    return str(done.run_id)


def move(store: Lake, engine: str, when: str, action: str = "promote") -> None:
    """Have `production` mean an engine from a time on."""
    name = layout.alias_series("made", "production")
    before = series.latest(store, name)
    number = 1 if before is None else before[0] + 1
    entry = AliasEntry(
        number=number, version=engine[-12:], action=action, at=when, by="somebody",
        previous=None if before is None else json.loads(before[1])["version"],
    )  # fmt: skip
    data = json.dumps(dataclasses.asdict(entry)).encode()
    assert series.put_next(store, name, number, data)


def current(store: Lake) -> dict[int, str]:
    """Day of the month to the last letter of the engine that counts."""
    with OpenStore(store) as opened:
        return current_in(opened)


def current_in(opened: OpenStore) -> dict[int, str]:
    found = opened.sql("SELECT date, engine FROM current").fetchall()
    return {date.day: engine[-1] for date, engine in found}


def state_of(opened: OpenStore) -> dict[str, Any]:
    """What a store answers."""
    questions = {
        "summaries": "SELECT engine, date, line, class_id, num_images, num_defective, area_sum_px, "
        "area_p95_px, peak_histogram, run_id FROM class_summaries ORDER BY ALL",
        "quarantine": "SELECT image_key FROM quarantine ORDER BY 1",
        "num": "SELECT count(*) FROM predictions",
        "runs": RUNS,
    }
    answers = {name: opened.sql(sql).fetchall() for name, sql in questions.items()}
    return {**answers, "current": current_in(opened)}


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def test_without_production_the_newest_run_counts(store: Lake) -> None:
    run(store, B, "2026-11-01", 1)
    run(store, A, "2026-11-01", 2)
    run(store, B, "2026-11-02", 3)
    assert current(store) == {1: "a", 2: "b"}
    run(store, B, "2026-11-01", 4, first=20)
    assert current(store) == {1: "b", 2: "b"}


def test_an_engine_that_is_only_tried_does_not_count(store: Lake) -> None:
    move(store, A, at(0))
    run(store, A, "2026-11-01", 1)
    run(store, B, "2026-11-01", 2)
    assert current(store) == {1: "a"}


def test_a_promotion_leaves_earlier_dates_until_they_are_rescored(store: Lake) -> None:
    move(store, A, at(0))
    run(store, A, "2026-11-01", 1)
    run(store, B, "2026-11-01", 2)  # tried before it was promoted
    move(store, B, at(3))
    run(store, B, "2026-11-02", 4)
    assert current(store) == {1: "a", 2: "b"}
    run(store, A, "2026-11-01", 5, first=20)  # late images, by the engine that the date has
    assert current(store) == {1: "a", 2: "b"}
    run(store, B, "2026-11-01", 6, first=20)  # scored again
    assert current(store) == {1: "b", 2: "b"}


def test_a_rollback_takes_back_what_was_rescored_too(store: Lake) -> None:
    move(store, A, at(0))
    run(store, A, "2026-11-01", 1)
    move(store, B, at(2))
    run(store, B, "2026-11-01", 3)
    run(store, B, "2026-11-02", 4)
    run(store, C, "2026-11-02", 4.5)
    move(store, A, at(5), "rollback")
    assert current(store) == {1: "a", 2: "b"}, "of the second date there is nothing else"
    run(store, A, "2026-11-02", 6)
    assert current(store) == {1: "a", 2: "a"}


def test_an_engine_that_was_left_counts_after_one_that_was_not(store: Lake) -> None:
    for hour, (engine, action) in enumerate([(A, "promote"), (B, "promote"), (C, "promote")]):
        move(store, engine, at(hour * 10), action)
        if engine != B:
            run(store, engine, "2026-11-01", hour * 10 + 1)
    move(store, B, at(40), "rollback")
    assert current(store) == {1: "a"}


def test_each_version_is_as_it_was(store: Lake) -> None:
    """Across a promotion, a late run, a rescoring and a rollback, in the order of the commits."""
    seen: dict[int, dict[str, Any]] = {}

    def note() -> None:
        with OpenStore(store) as opened:
            seen[int(open_table(store, layout.PREDICTIONS).version())] = state_of(opened)

    def now() -> str:
        return datetime.datetime.now(UTC).isoformat()

    move(store, A, at(0))
    commit_run(store, image_keys(8), bad=image_keys(1), engine=A, date="2026-11-21")
    note()
    commit_run(store, image_keys(8), bad=image_keys(2), engine=A, date="2026-11-22")
    note()
    commit_run(store, image_keys(6, first=20), engine=A, date="2026-11-21")  # late
    note()
    commit_run(store, image_keys(8), engine=B, date="2026-11-21")  # tried
    note()
    move(store, B, now())
    commit_run(store, image_keys(8), engine=B, date="2026-11-23")
    note()
    assert len(seen) == 5
    for version, was in seen.items():
        with OpenStore(store, as_of=str(version)) as opened:
            assert state_of(opened) == was
    assert [was["current"] for was in seen.values()][-2:] == [
        {21: "a", 22: "a"},
        {21: "a", 22: "a", 23: "b"},
    ]


def test_a_time_is_the_version_that_was_there_then(store: Lake) -> None:
    commit_run(store, image_keys(4), date="2026-11-21")
    between = datetime.datetime.now(UTC)
    commit_run(store, image_keys(4), date="2026-11-22")
    log = {entry["version"]: entry for entry in open_table(store, layout.PREDICTIONS).history()}
    last = datetime.datetime.fromtimestamp(log[2]["timestamp"] / 1000, UTC)
    for moment, version in ((between, 1), (last, 2)):
        assert find_moment(store, moment.isoformat(timespec="microseconds")).version == version
        elsewhere = moment.astimezone(datetime.timezone(datetime.timedelta(hours=5.5)))
        assert find_moment(store, elsewhere.isoformat(" ", "microseconds")).version == version
    assert find_moment(store, str(1)).at < between


@pytest.fixture(scope="module")
def of_one_run(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    store = Lake(str(tmp_path_factory.mktemp("store")))
    commit_run(store, image_keys(4))
    return store


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("7", "expected 0 to 1"),
        ("2020-01-01", "begins at 20"),
        ("2999-01-01T00:00Z", "future"),
        ("yesterday", "neither a version"),
        ("2026-11-22T25:00", "neither a version"),
        ("2026-02-30", "there is no date"),
        ("-1", "neither a version"),
        ("", "neither a version"),
        ("٣", "neither a version"),
    ],
)
def test_a_moment_that_never_was_is_refused(of_one_run: Lake, moment: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        find_moment(of_one_run, moment)


def test_rows_that_a_later_run_replaced_are_not_made_up(store: Lake) -> None:
    """Quarantined images that were scored since, as files go with the runs that replace them."""
    commit_run(store, image_keys(8), bad=image_keys(2), date="2026-11-21")
    commit_run(store, image_keys(8), bad=image_keys(1), date="2026-11-22")
    commit_run(store, image_keys(2), date="2026-11-21", retry_quarantined=True)
    with OpenStore(store, as_of="2") as opened:
        kept = opened.sql("SELECT count(*) FROM quarantine WHERE date = '2026-11-22'")
        assert kept.fetchall() == [(1,)]
        with pytest.raises(LakeError, match="later run"):
            list(opened.sql("SELECT * FROM quarantine").read()[1])


def test_dates_that_commit_at_once_are_told_apart(store: Lake) -> None:
    """Two runs land in one order in the predictions and in the other in the quarantine."""
    commit_run(store, image_keys(4), bad=image_keys(1), date="2026-11-20")
    keys = image_keys(8)
    records = [begin(store, keys, date=date) for date in ("2026-11-21", "2026-11-22")]
    versions = []
    for record in records:
        score_shards(store, record)
        files = merge(store, record)
        versions.append(land(store, layout.PREDICTIONS, record.run_id, files))
    for record, num in zip(reversed(records), (3, 5), strict=True):
        entries = [
            {"image_key": key, "error_code": "empty", "message": "m", "bytes": 0, "etag": "e",
             "run_id": record.run_id, "at": NOW}
            for key in keys[:num]
        ]  # fmt: skip
        file = write_file(
            store, schema.QUARANTINE, [pa.Table.from_pylist(entries, schema=schema.QUARANTINE)],
            merged=layout.merged_file(record.run_id, layout.QUARANTINE, 0),
            target=layout.table_file(
                layout.QUARANTINE, record.engine, record.date, record.run_id, 0
            ),
        )  # fmt: skip
        land(store, layout.QUARANTINE, record.run_id, [file])
    for version, num in zip(versions, (1 + 5, 1 + 5 + 3), strict=True):
        with OpenStore(store, as_of=str(version)) as opened:
            assert opened.sql("SELECT count(*) FROM quarantine").fetchall() == [(num,)]
