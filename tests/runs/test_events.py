"""Events survive attempts, and cost a run nothing where they cannot be written."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.runs.events import MAX_EVENTS, RATE_SECONDS, Events, Rate, read_events
from tests.made_up_run import DATE, ENGINE

RUN = layout.run_id(ENGINE, DATE, 1)


def names(store: Lake) -> list[str]:
    return [event["event"] for event in read_events(store, RUN)]


def test_events_are_read_in_their_order_with_what_they_say(lake: Lake) -> None:
    events = Events(lake, RUN)
    events.add("attempt", host="näme", config={"a": [1, None]})
    events.add("merged", num_files=3)
    events.flush()
    first, second = read_events(lake, RUN)
    assert (first["event"], first["host"], first["config"]) == ("attempt", "näme", {"a": [1, None]})
    assert (second["event"], second["num_files"]) == ("merged", 3)
    assert first["at"] <= second["at"]


def test_a_later_attempt_adds_to_the_events_of_the_earlier_ones(lake: Lake) -> None:
    for name in ("first", "second"):
        events = Events(lake, RUN)
        events.add(name)
        events.flush()
    assert names(lake) == ["first", "second"]


def test_a_run_without_events_has_none(lake: Lake) -> None:
    assert names(lake) == []


def test_the_first_event_is_there_at_once(lake: Lake) -> None:
    Events(lake, RUN).add("attempt")
    assert names(lake) == ["attempt"]


def test_of_too_many_events_the_middle_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    store = Lake(str(tmp_path))
    for first, last in ((0, MAX_EVENTS), (MAX_EVENTS, MAX_EVENTS + 10)):
        events = Events(store, RUN)
        for number in range(first, last):
            events.add("shard_failed", shard=number)
        events.flush()
    found = list(read_events(store, RUN))
    assert len(found) == MAX_EVENTS
    (dropped,) = [event for event in found if event["event"] == "dropped"]
    assert dropped["num_events"] == 11
    shards = [event["shard"] for event in found if event["event"] == "shard_failed"]
    assert shards == sorted(shards)
    assert (shards[0], shards[-1]) == (0, MAX_EVENTS + 9)
    assert len(shards) + dropped["num_events"] == MAX_EVENTS + 10


def test_a_store_that_cannot_be_written_costs_the_events_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events(Lake(str(tmp_path)), RUN)
    (tmp_path / "runs").write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING, logger="steel_batch.runs.events"):
        events.add("attempt")
        events.flush()
    assert "cannot write the run's events" in caplog.text


def test_the_rate_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = Rate()
    assert rate.add(0) == 0.0
    now += RATE_SECONDS / 2
    assert rate.add(100) == 100 / (RATE_SECONDS / 2)
    now += RATE_SECONDS / 2
    assert rate.add(400) == 400 / RATE_SECONDS, "the first point still counts"
    now += 1.0
    assert rate.add(500) == 400 / (RATE_SECONDS / 2 + 1.0), "it does no more"


def test_a_rate_that_stands_still_is_zero() -> None:
    rate = Rate()
    rate.add(50)
    assert rate.add(50) == 0.0
