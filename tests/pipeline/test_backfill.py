"""An archive of dates through one pool of actors: each date once, whatever interrupts."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.pipeline.backfill import backfill
from steel_batch.pipeline.backfill_config import BackfillConfig
from steel_batch.pipeline.open_date import open_date
from steel_batch.pipeline.outcomes import DateOutcome
from steel_batch.pipeline.states import ToScore
from steel_batch.runs.record import list_runs
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import ensure_tables
from steel_batch.tables.verify import verify
from tests.cli.command_line import Command
from tests.cli.conftest import steel_batch as steel_batch
from tests.conftest import PATTERN, cluster_address, fill_lake, group, scope_of, score_config
from tests.interrupting import held_locks
from tests.score_here import score_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def _dates(number: int) -> list[str]:
    return [f"2026-10-{day:02d}" for day in range(1, number + 1)]


def _images_per_date(store: Lake) -> dict[str, int]:
    rows = run_query(
        store,
        "SELECT date, count(*) AS n, count(DISTINCT image_key) AS k FROM predictions GROUP BY 1",
    ).to_pylist()
    assert all(row["n"] == row["k"] for row in rows)
    return {str(row["date"]): row["n"] for row in rows}


def _states(outcomes: list[DateOutcome]) -> Counter[str]:
    return Counter(outcome.state for outcome in outcomes)


@pytest.mark.parametrize("num_dates", [6, 30])
@pytest.mark.quick("6")
def test_dates_interrupted_twice_are_each_committed_once(
    num_dates: int, images: Lake, store: Lake, tiny_engine: Path, steel_batch: Command
) -> None:
    for date in _dates(num_dates):
        fill_lake(images, num_images=4, date=date)
    command = [
        sys.executable, "-m", "steel_batch.cli", "backfill", "--images", images.url,
        "--key-pattern", PATTERN, "--store", store.url, "--engine", str(tiny_engine),
        "--from", "2026-10-01", "--to", "2026-10-31", "--ray-address", cluster_address(),
        "--max-dates-at-once", "3", "--lease-seconds", "1", "--lock-wait", "30", "--output", "json",
    ]  # fmt: skip
    for interruption, num_done in (
        (signal.SIGTERM, num_dates // 6),
        (signal.SIGKILL, num_dates // 2),
    ):
        with group([command]) as (process,):
            while len(list(store.list_objects("backfills/"))) < num_done:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.05)
            process.send_signal(interruption)
            _, err = process.communicate(timeout=200)
        expected = 130 if interruption == signal.SIGTERM else -signal.SIGKILL
        assert process.returncode == expected, err
        if interruption == signal.SIGTERM:
            assert "interrupted" in err
            assert "Traceback" not in err
            assert held_locks(store) == []
    num_before = len(list(store.list_objects("backfills/")))
    assert num_before < num_dates
    words = command[3:]
    done = steel_batch(*words)
    assert done.code == 0, done.err
    told = done.json
    # The killed command may have committed dates that it could not note any more.
    assert told["num_done_before"] >= num_before
    assert told["num_committed"] + told["num_done_before"] == num_dates
    assert all(entry["result"]["num_images"] == 4 for entry in told["dates"])
    assert _images_per_date(store) == dict.fromkeys(_dates(num_dates), 4)
    assert list(verify(store)) == []
    # What each date cost, whichever command it was that scored it.
    costs = {entry["date"]: entry for entry in told["dates"]}
    text = steel_batch(*words[:-1], "text").err
    rows = [line.split("  ") for line in text.splitlines() if line.startswith("2026-10-")]
    table = [[cell.strip() for cell in row if cell] for row in rows]
    assert [row[:2] for row in table] == [[date, "done before"] for date in _dates(num_dates)]
    for date, _, num_images, _, seconds, run_id in table:
        assert run_id == costs[date]["result"]["run_id"]
        assert (num_images, seconds) == ("4", f"{costs[date]['seconds']:,.1f}")
    assert "total" in text


def test_a_failing_date_stops_no_other_and_stop_after_stops_the_rest(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    dates = _dates(5)
    for date in dates:
        fill_lake(images, num_images=4, date=date)
    for date in (dates[1], dates[3]):
        images.write(f"line=1/date={date}/broken.png", b"half")
    config = score_config(images, store, tiny_engine, date="all")
    outcomes = backfill(config, BackfillConfig(max_dates_at_once=1, stop_after=1), lambda _: None)
    assert [outcome.state for outcome in outcomes[:2]] == ["committed", "failed"]
    assert "--max-bad" in str(outcomes[1].error)
    assert _states(outcomes)["not begun"] >= 2
    outcomes = backfill(config, BackfillConfig(newest_first=True), lambda _: None)
    assert [outcome.date for outcome in outcomes] == dates[::-1]
    assert _states(outcomes)["failed"] == 2
    assert _images_per_date(store) == {d: 4 for d in dates if d not in (dates[1], dates[3])}
    for date in (dates[1], dates[3]):
        score_here(config.replace(date=date, max_bad=0.5))
    assert _states(backfill(config, BackfillConfig(), lambda _: None)) == {"done before": 5}


def test_a_damaged_plan_stops_no_other_date(images: Lake, store: Lake, tiny_engine: Path) -> None:
    dates = _dates(4)
    config = score_config(images, store, tiny_engine, date="all")
    ensure_tables(store)
    plans = {}
    for date in dates:
        fill_lake(images, num_images=4, date=date)
        with open_date(scope_of(config.replace(date=date), store), lambda _: None) as state:
            assert isinstance(state, ToScore)
            key = layout.run_file(state.work.run_id, "plan.parquet")
        plans[date] = key, store.read(key)
    cut, flipped = dates[0], dates[2]
    key, plan = plans[cut]
    store.write(key, plan[:-100])
    key, plan = plans[flipped]
    store.write(key, plan[:4] + bytes(256) + plan[260:])  # its footer is as it was
    outcomes = backfill(config, BackfillConfig(), lambda _: None)
    failed = {outcome.date: outcome.error for outcome in outcomes if outcome.state == "failed"}
    assert failed.keys() == {cut, flipped}
    assert all("plan" in str(error) for error in failed.values()), failed
    assert _images_per_date(store) == {dates[1]: 4, dates[3]: 4}
    for key, plan in plans.values():
        store.write(key, plan)
    for date in (dates[0], dates[2]):
        assert score_here(config.replace(date=date)).num_scored == 4
    assert _images_per_date(store) == dict.fromkeys(dates, 4)


def test_days_without_images_are_no_failure(
    images: Lake,
    store: Lake,
    tiny_engine: Path,
    steel_batch: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill_lake(images, num_images=4, date="2026-10-01")
    images.write("line=1/date=2026-10-02/Thumbs.db", b"x")
    images.write("line=1/date=2026-10-03/im.JPEG", b"an image that the pattern does not read")
    flags = ["--images", images.url, "--key-pattern", PATTERN, "--store", store.url,
             "--engine", tiny_engine, "--ray-address", cluster_address()]  # fmt: skip
    weekend = steel_batch("backfill", *flags, "--from", "2026-10-10", "--to", "2026-10-11")
    assert (weekend.code, weekend.out) == (0, "")
    said = caplog.text + weekend.err  # by whichever handler is there
    assert (
        f"{images.url} has no images from 2026-10-10 to 2026-10-11; its dates range from "
        "2026-10-01 to 2026-10-03"
    ) in said
    assert "2 of 2 days have no images." in weekend.err
    json = [*flags, "--output", "json"]
    weekend = steel_batch("backfill", *json, "--from", "2026-10-10")
    assert (weekend.code, weekend.json["num_dates"], weekend.json["dates"]) == (0, 0, [])
    asked = ["--report", "--alert-if", "images < 5", "--alert-if", "failed"]
    days = steel_batch("backfill", *json, *asked, "--from", "2026-10-01", "--to", "2026-10-02")
    assert days.code == 0
    assert days.err.count("alert: images < 5: it is 4.") == 1
    left = {item.key.rpartition("/")[2] for item in store.list_objects("runs/2026-10-01")}
    assert {"report.html", "alerts.json"} <= left
    assert [day["state"] for day in days.json["dates"]] == ["committed", "no images"]
    assert (days.json["num_without_images"], days.json["num_failed"]) == (1, 0)
    unread = steel_batch("backfill", *json, *asked, "--from", "2026-10-01", "--to", "2026-10-03")
    assert unread.code == 1, "images that nothing reads are no day without images"
    assert "alert: images" not in unread.err, "the date was done before"
    assert unread.err.count("alert: failed: ") == 1
    assert [day["state"] for day in unread.json["dates"]] == ["done before", "no images", "failed"]
    assert "line=1/date=2026-10-03/im.JPEG" in unread.json["dates"][2]["error"]
    alone = steel_batch("score", *flags, "--date", "2026-10-02")
    assert alone.code == 1
    assert "there are no images of 2026-10-02" in alone.err


def test_a_backfill_counts_what_it_leaves_alone_as_score_does(
    images: Lake, store: Lake, tiny_engine: Path, steel_batch: Command
) -> None:
    date = "2026-10-01"
    fill_lake(images, num_images=4, date=date)
    score_here(score_config(images, store, tiny_engine, date=date))
    flags = ["--images", images.url, "--key-pattern", PATTERN, "--store", store.url, "--from",
             date, "--to", date, "--engine", tiny_engine]  # fmt: skip
    images.write(f"line=1/date={date}/b.JPG", b"x")
    (first, *_) = [item.key for item in images.list_objects(f"line=1/date={date}/im")]
    images.write(first, images.read(first) + b" ")
    again = steel_batch("backfill", *flags, "--recheck")
    assert again.code == 0
    (line,) = [line for line in again.err.splitlines() if line.startswith(f"{date}: ")]
    assert "Changed since they were scored: 1 image; use --rescore-changed to score them." in line
    assert "Left out by the key pattern: 1 other object" in line
    assert f"line=1/date={date}/b.JPG" in line
    assert "Left out" not in steel_batch("backfill", *flags).err, "nothing was listed"


def test_only_recheck_looks_again_at_dates_that_are_done(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    dates = _dates(2)
    for date in dates:
        fill_lake(images, num_images=4, date=date)
    config = score_config(images, store, tiny_engine, date="all")
    before = score_here(config.replace(date=dates[0]))
    first, second = backfill(config, BackfillConfig(), lambda _: None)
    assert (first.state, first.result) == ("done before", before), "by the nightly command"
    assert second.state == "committed"
    fill_lake(images, num_images=6, date=dates[1])
    assert _states(backfill(config, BackfillConfig(), lambda _: None)) == {"done before": 2}
    assert _images_per_date(store) == dict.fromkeys(dates, 4)
    outcomes = backfill(config, BackfillConfig(recheck=True), lambda _: None)
    assert [outcome.result.num_images for outcome in outcomes if outcome.result] == [0, 2]
    assert _images_per_date(store) == {dates[0]: 4, dates[1]: 6}
    known = backfill(config, BackfillConfig(), lambda _: None)
    assert [outcome.result.num_images for outcome in known if outcome.result] == [4, 2]
    assert len(list(list_runs(store))) == 3
