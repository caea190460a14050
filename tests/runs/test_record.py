"""What a store knows of its runs."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import DamagedFileError, LakeError
from steel_batch.lake import Lake
from steel_batch.runs.record import (
    Run,
    RunResult,
    latest_run,
    list_runs,
    put_record,
    put_result,
    read_run,
    read_runs,
    try_runs,
)
from tests.made_up_run import DATE, ENGINE, begin, commit_run, image_keys


@pytest.fixture
def folder(tmp_path: Path) -> Lake:
    """For what does not depend on the kind of store."""
    return Lake(str(tmp_path / "folder"))


def test_a_run_is_unplanned_then_unfinished_then_committed(lake: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 1)
    assert latest_run(lake, ENGINE, DATE) is None
    assert read_run(lake, run_id).state == "unplanned"
    lake.write(layout.run_file(run_id, "plan.parquet"), b"half of it")
    assert [run.state for run in (read_run(lake, run_id),)] == ["unplanned"]
    record = begin(lake, image_keys(4))
    assert record.run_id == layout.run_id(ENGINE, DATE, 2), "a number is never used twice"
    found = read_run(lake, record.run_id)
    assert (found.state, found.record, found.result) == ("unfinished", record, None)
    result = commit_run(lake, image_keys(4))
    latest = latest_run(lake, ENGINE, DATE)
    assert latest is not None
    assert (latest.state, latest.result) == ("committed", result)


def test_an_unfinished_run_that_a_later_one_follows_was_abandoned(folder: Lake) -> None:
    given_up = begin(folder, image_keys(4))
    commit_run(folder, image_keys(4))
    left = begin(folder, image_keys(4), date="2026-11-22")
    states = {run.run_id: run.state for run in read_runs(folder, list(list_runs(folder)))}
    assert states.pop(given_up.run_id) == "abandoned"
    assert states.pop(left.run_id) == "unfinished"
    assert list(states.values()) == ["committed"]


def test_a_result_is_read_as_it_was_written(folder: Lake) -> None:
    result = commit_run(folder, image_keys(4))
    assert read_run(folder, str(result.run_id)).result == result
    assert result.classes


def test_the_first_record_and_the_first_result_stand(folder: Lake) -> None:
    record = begin(folder, image_keys(4))
    assert not put_record(folder, dataclasses.replace(record, num_images=99))
    assert read_run(folder, record.run_id).record == record
    result = commit_run(folder, image_keys(4))
    put_result(folder, dataclasses.replace(result, num_scored=99))
    assert read_run(folder, str(result.run_id)).result == result


def test_runs_are_listed_by_date_engine_and_number(lake: Lake) -> None:
    other = "b-0123456789ab"
    ids = [
        layout.run_id(ENGINE, "2026-11-20", 2),
        layout.run_id(other, DATE, 1),
        layout.run_id(ENGINE, DATE, 3),
        layout.run_id(ENGINE, DATE, 9999),
        layout.run_id(ENGINE, DATE, 10000),
    ]
    for run_id in reversed(ids):
        lake.write(layout.run_file(run_id, "plan.parquet"), b"x")
    lake.write("runs/notes/today.txt", b"no run")
    lake.write("runs/2026-11-21/notes.txt", b"no run")
    assert list(list_runs(lake)) == ids
    assert list(list_runs(lake, "2026-11-20")) == ids[:1]
    assert list(list_runs(lake, "2026-11")) == ids
    assert list(list_runs(lake, "1999")) == []
    latest = latest_run(lake, ENGINE, DATE)
    assert latest is not None
    assert latest.run_id == ids[-1]


def test_an_engine_whose_name_begins_another_has_runs_of_its_own(folder: Lake) -> None:
    begin(folder, image_keys(4), engine="made-0123456789ab-0123456789ab")
    assert latest_run(folder, ENGINE, DATE) is None
    assert len(list(list_runs(folder))) == 1


@pytest.mark.parametrize("name", ["run.json", "result.json"])
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"run_id": "r"}', b"\xff"])
def test_a_damaged_file_of_a_run_is_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: bytes
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("damaged")))
    key = layout.run_file(layout.run_id(ENGINE, DATE, 1), name)
    lake.write(key, text)
    with pytest.raises(LakeError, match=f"{key} is damaged"):
        read_run(lake, layout.run_id(ENGINE, DATE, 1))


def test_a_damaged_record_among_those_of_a_year_is_named_and_the_others_are_read(
    lake: Lake,
) -> None:
    num = 60 if lake.is_s3 else 300  # more than S3 is asked for at once; three batches
    first = begin(lake, image_keys(4), date="2026-01-01")
    days = [str(datetime.date(2026, 1, 1) + datetime.timedelta(days=n)) for n in range(1, num)]
    for day in days:
        run_id = layout.run_id(ENGINE, day, 1)
        put_record(lake, dataclasses.replace(first, run_id=run_id, date=day))
    ids = list(list_runs(lake))
    assert [run.record is not None for run in read_runs(lake, ids)] == [True] * num
    key = layout.run_file(ids[40], "run.json")
    lake.write(key, b"{")
    found = dict(zip(ids, try_runs(lake, ids), strict=True))
    error = found.pop(ids[40])
    assert isinstance(error, DamagedFileError)
    assert error.message.startswith(f"{lake.uri(key)} is damaged")
    assert [run.run_id for run in found.values() if isinstance(run, Run)] == list(found)
    with pytest.raises(DamagedFileError, match=f"{key} is damaged"):
        list(read_runs(lake, ids))


def test_a_result_is_plain_json() -> None:
    result = RunResult(
        run_id=None, engine=ENGINE, date=DATE, num_images=0, num_scored=0, num_quarantined=0,
        num_shards=0, seconds=0.0, images_per_second=0.0, startup_seconds=0.0, committed=True,
        table_version=None, predictions="glob",
    )  # fmt: skip
    assert result.to_json()["classes"] == ()
    assert set(result.to_json()) == {field.name for field in dataclasses.fields(RunResult)}
