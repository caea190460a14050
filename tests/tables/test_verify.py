"""`verify` finds whatever is wrong with a store, and nothing where nothing is."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch import layout, schema
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.runs.record import RunResult
from steel_batch.tables.commit import land
from steel_batch.tables.committed import WHOLE_BYTES, read_rows
from steel_batch.tables.file_lists import load_files, save_files
from steel_batch.tables.merge import write_file
from steel_batch.tables.table_log import LiveFile, all_live_files, live_files
from steel_batch.tables.verify import AT_ONCE, Problem, _batches, run_of, verify
from tests.made_up_run import (
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    made_up_row,
    merge,
    parquet,
    rows_table,
    score_shards,
)

OTHER_DATE = "2026-11-22"


def found(store: Lake, **only: str) -> list[tuple[str, str]]:
    return [(problem.kind, problem.key) for problem in verify(store, **only)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that is never touched."""
    path = tmp_path_factory.mktemp("sound") / "store"
    fill(Lake(str(path)))
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Lake:
    """A copy of it, to plant something in."""
    shutil.copytree(sound, tmp_path / "store")
    return Lake(str(tmp_path / "store"))


def fill(made: Lake) -> None:
    """Two dates; one in two runs and several files, with quarantine."""
    keys = image_keys(10)
    commit_run(made, keys, bad=keys[:2], merge_bytes=1)
    commit_run(made, image_keys(3, first=10))
    commit_run(made, image_keys(5), date=OTHER_DATE)


def first_file(store: Lake, table: str = layout.PREDICTIONS) -> str:
    return live_files(store, table, ENGINE, DATE)[0].key


def test_a_sound_store_has_no_problems(store: Lake) -> None:
    assert found(store) == []


def test_what_was_checked_is_counted(store: Lake) -> None:
    checked = verify(store)
    assert list(checked) == []
    files = [file for table in layout.TABLES for file in all_live_files(store, table)]
    assert (checked.num_runs, checked.num_files) == (3, len(files))
    assert checked.num_rows == sum(file.num_rows for file in files)
    of_date = verify(store, date=OTHER_DATE)
    assert list(of_date) == []
    assert (of_date.num_runs, of_date.num_files) == (1, 2)


def test_a_store_without_tables_is_refused_and_one_without_rows_is_not(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    with pytest.raises(LakeError, match=r"there is no table .*/store/predictions: nothing has be"):
        found(store)
    begin(store, image_keys(4))
    assert found(store) == []


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"engine": "demo"},
         f"committed for engine 'demo': expected <model>-<12 hex>, for example {ENGINE}"),
        ({"engine": "other-ffffffffffff"}, "nothing is committed for engine 'other-ffffffffffff'"),
        ({"date": "2026-11-12"}, "nothing is committed for the date 2026-11-12 in .*: it has "
         f"dates from {DATE} to {OTHER_DATE}"),
        ({"date": "2026-11-12", "engine": ENGINE}, f"for the date 2026-11-12 and engine {ENGINE}"),
        ({"date": "12.11.2026"}, "'12.11.2026' is not YYYY-MM-DD"),
        ({"date": "2026-13-45"}, "there is no date 2026-13-45"),
    ],
)  # fmt: skip
def test_an_engine_or_date_of_which_nothing_is_there_is_refused(
    store: Lake, only: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        found(store, **only)


def test_files_that_no_log_names_are_found_also_where_there_is_no_log(store: Lake) -> None:
    store.delete(item.key for item in list(store.list_objects("predictions/_delta_log/")))
    kinds = {kind for kind, key in found(store) if key.startswith("predictions/")}
    assert kinds == {"foreign"}


def test_a_run_that_is_not_over_is_no_problem(store: Lake) -> None:
    record = begin(store, image_keys(4, first=50))
    score_shards(store, record)
    assert found(store) == []
    merge(store, record)
    assert found(store) == []


@pytest.mark.parametrize("table", layout.TABLES)
def test_a_deleted_file_is_found(store: Lake, table: str) -> None:
    key = first_file(store, table)
    store.delete([key])
    assert found(store) == [("missing", key)]


@pytest.mark.parametrize("table", layout.TABLES)
def test_a_truncated_file_is_found(store: Lake, table: str) -> None:
    key = first_file(store, table)
    store.write(key, store.read(key)[:-5])
    assert found(store) == [("truncated", key)]


@pytest.mark.parametrize("where", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_changed_byte_is_found_wherever_it_is(store: Lake, where: float) -> None:
    key = first_file(store)
    data = bytearray(store.read(key))
    data[int(where * len(data))] ^= 0x40
    store.write(key, bytes(data))
    assert found(store) == [("changed", key)]


def test_several_things_wrong_on_any_lake_are_all_found(lake: Lake) -> None:
    fill(lake)
    assert found(lake) == []
    gone, short, changed = (file.key for file in live_files(lake, "predictions", ENGINE, DATE)[:3])
    lake.delete([gone])
    lake.write(short, lake.read(short)[:100])
    data = lake.read(changed)
    lake.write(changed, data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert found(lake) == [("missing", gone), ("truncated", short), ("changed", changed)]


@pytest.mark.parametrize("table", layout.TABLES)
def test_a_foreign_file_in_a_partition_is_found(store: Lake, table: str) -> None:
    key = f"{table}/{layout.partition(ENGINE, DATE)}/somebody.parquet"
    store.write(key, parquet(rows_table([made_up_row("x/y.jpg", "r")])))
    assert found(store) == [("foreign", key)]


def test_a_foreign_file_in_a_partition_of_its_own_is_found(store: Lake) -> None:
    key = "predictions/engine=mine/date=2020-01-01/rows.parquet"
    store.write(key, b"x")
    assert found(store) == [("foreign", key)]
    assert found(store, date=DATE) == []


def test_what_a_killed_run_published_is_found_until_it_is_swept(store: Lake) -> None:
    record = begin(store, image_keys(4, first=50))
    score_shards(store, record)
    (file,) = files = merge(store, record)
    store.copy(file.merged, file.target)
    assert found(store) == [("foreign", file.target)]
    finish(store, record, files)
    assert found(store) == []


def test_a_duplicate_commit_is_found(store: Lake) -> None:
    """The same rows once more, as a run under another id that did not know of the first."""
    record = begin(store, image_keys(3, first=10))
    score_shards(store, record)
    finish(store, record, merge(store, record))
    (problem,) = verify(store)
    assert (problem.kind, problem.key) == (
        "duplicate", f"predictions/{layout.partition(ENGINE, DATE)}",
    )  # fmt: skip
    assert problem.message == ("3 images have more than one row, for example 1/im00010.jpg")


def test_the_same_file_committed_under_another_name_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 1)
    (file, *_) = load_files(store, run_id, "predictions") or []
    again = layout.run_id(ENGINE, DATE, 9)
    copy = dataclasses.replace(
        file, merged=file.target, target=layout.table_file("predictions", ENGINE, DATE, again, 0)
    )
    land(store, "predictions", again, [copy])
    partition = f"predictions/{layout.partition(ENGINE, DATE)}"
    assert found(store) == [("unrecorded", copy.target), ("duplicate", partition)]


def test_the_same_image_of_two_dates_or_engines_is_no_duplicate(store: Lake) -> None:
    commit_run(store, image_keys(4), engine="other-ffffffffffff")
    assert found(store) == []


def rewrite_result(store: Lake, change: Callable[[RunResult], RunResult]) -> str:
    key = layout.run_file(layout.run_id(ENGINE, DATE, 1), "result.json")
    changed = change(RunResult.from_json(store.read(key), source=key))
    store.write(key, json.dumps(changed.to_json()).encode())
    return key


@pytest.mark.parametrize(
    "counts",
    [
        {"num_scored": 7},
        {"num_quarantined": 1},
        {"num_scored": 9, "num_quarantined": 1},
        {"num_scored": 7, "num_quarantined": 3},
    ],
    ids=str,
)
def test_counts_that_do_not_add_up_are_found(store: Lake, counts: dict[str, int]) -> None:
    """Of ten images, eight were predicted and two quarantined."""
    key = rewrite_result(store, lambda result: dataclasses.replace(result, **counts))  # type: ignore[arg-type]
    assert found(store) == [("miscounted", key)]


def test_a_plan_with_more_images_than_were_scored_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 1)
    key = layout.run_file(run_id, "run.json")
    record = json.loads(store.read(key))
    store.write(key, json.dumps({**record, "num_images": 11}).encode())
    (problem,) = verify(store)
    assert problem == Problem(
        kind="miscounted",
        key=layout.run_file(run_id, "result.json"),
        message="planned 11, predicted 8 (8 in files), quarantined 2 (2 in files)",
    )


def test_quarantine_entries_that_were_not_written_are_found(store: Lake) -> None:
    """The run says that it set two images aside, and its file holds one."""
    run_id = layout.run_id(ENGINE, DATE, 1)
    (file,) = load_files(store, run_id, "quarantine") or []
    save_files(store, run_id, "quarantine", [dataclasses.replace(file, num_rows=1)])
    (log_says, counts) = verify(store)
    assert (log_says.kind, log_says.key) == ("miscounted", file.target)
    assert counts.message.endswith("quarantined 2 (1 in files)")


def test_rows_that_the_log_counts_otherwise_are_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 2)
    (file,) = load_files(store, run_id, "predictions") or []
    save_files(store, run_id, "predictions", [dataclasses.replace(file, num_rows=2)])
    assert found(store) == [("miscounted", file.target)]


def test_a_file_without_a_record_is_found(store: Lake) -> None:
    run_id = layout.run_id(ENGINE, DATE, 2)
    store.delete([layout.files_list(run_id, "predictions")])
    assert found(store) == [("unrecorded", first_file_of(store, run_id))]


def first_file_of(store: Lake, run_id: str) -> str:
    (key,) = [f.key for f in live_files(store, "predictions", ENGINE, DATE) if run_id in f.key]
    return key


def test_images_that_were_tried_again_and_left_the_quarantine_are_no_problem(store: Lake) -> None:
    keys = image_keys(2)
    commit_run(store, keys, retry_quarantined=True, bad=keys[1:])
    assert found(store) == []


def test_one_engine_or_date_can_be_checked_alone(store: Lake) -> None:
    key = first_file(store)
    store.delete([key])
    assert found(store, date=OTHER_DATE) == []
    assert found(store, engine=ENGINE, date=DATE) == [("missing", key)]


def relist(store: Lake, table: str, run_id: str, rows: pa.Table) -> None:
    """Replace a run's file by one with other rows, which its record states as well."""
    engine, date, _ = layout.split_run_id(run_id)
    (live,) = live_files(store, table, engine, date)
    new = write_file(
        store, schema.TABLES[table], [rows.cast(schema.TABLES[table])],
        merged=layout.merged_file(run_id, table, 7),
        target=layout.table_file(table, engine, date, run_id, 0, 7),
    )  # fmt: skip
    land(store, table, f"{run_id}9", [new], replaced=[live])
    save_files(store, run_id, table, [new])
    store.delete([live.key])


def with_column(rows: pa.Table, name: str, values: list[object]) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pa.array(values))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose predictions are a file that is not read whole."""
    path = tmp_path_factory.mktemp("large") / "store"
    store = Lake(str(path))
    result = commit_run(store, image_keys(2_000), shard_images=2_000)
    files = live_files(store, layout.PREDICTIONS, ENGINE, DATE)
    rows = pa.Table.from_batches(read_rows(store, files, schema.PREDICTIONS))
    rng = random.Random(1)
    etags: list[object] = [rng.randbytes(500).hex() for _ in range(rows.num_rows)]
    relist(store, layout.PREDICTIONS, str(result.run_id), with_column(rows, "etag", etags))
    (file,) = live_files(store, layout.PREDICTIONS, ENGINE, DATE)
    assert file.size_bytes > WHOLE_BYTES
    return path


@pytest.mark.parametrize("what", ["missing", "truncated", "changed", "duplicate", None])
def test_a_large_file_is_checked_like_a_small_one(
    large: Path, tmp_path: Path, what: str | None
) -> None:
    shutil.copytree(large, tmp_path / "store")
    store = Lake(str(tmp_path / "store"))
    key = first_file(store)
    path = tmp_path / "store" / key
    data = path.read_bytes()
    if what == "missing":
        path.unlink()
    elif what == "truncated":
        path.write_bytes(data[:-1])
    elif what == "changed":
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif what == "duplicate":
        commit_run(store, image_keys(1))
        key = f"predictions/{layout.partition(ENGINE, DATE)}"
    assert found(store) == ([] if what is None else [(what, key)])


def test_a_file_that_has_grown_beyond_what_is_read_whole_is_found(store: Lake) -> None:
    key = first_file(store)
    store.write(key, bytes(2 * WHOLE_BYTES))
    (problem,) = verify(store)
    assert (problem.kind, problem.key) == ("truncated", key)
    assert f"it has {2 * WHOLE_BYTES} bytes, the log states " in problem.message


def test_dates_that_are_checked_together_are_told_apart(tmp_path: Path) -> None:
    """Each of them has the same keys, and five of them have another fault."""
    store = Lake(str(tmp_path / "store"))
    dates = [f"2026-10-{day:02d}" for day in range(1, 13)]
    keys = image_keys(6)
    runs = {date: commit_run(store, keys, date=date, bad=keys[:1]) for date in dates}

    def part(table: str, date: str) -> str:
        return f"{table}/{layout.partition(ENGINE, date)}"

    def rows_of(table: str, date: str) -> pa.Table:
        return pa.Table.from_batches(
            read_rows(store, live_files(store, table, ENGINE, date), schema.TABLES[table]),
            schema=schema.TABLES[table],
        )

    def change(table: str, date: str, rows: pa.Table) -> None:
        relist(store, table, str(runs[date].run_id), rows)

    summary = rows_of(layout.CLASS_SUMMARIES, dates[2])
    counts = [n + (i == 3) for i, n in enumerate(summary["num_images"].to_pylist())]
    change(layout.CLASS_SUMMARIES, dates[2], with_column(summary, "num_images", counts))
    change(layout.CLASS_SUMMARIES, dates[4], summary.slice(0, 0))
    change(layout.CLASS_SUMMARIES, dates[10], rows_of(layout.CLASS_SUMMARIES, dates[10])[:-1])
    twice = rows_of(layout.PREDICTIONS, dates[6])
    change(layout.PREDICTIONS, dates[6], pa.concat_tables([twice.slice(1), twice.slice(1, 1)]))
    both = rows_of(layout.QUARANTINE, dates[8])
    change(layout.QUARANTINE, dates[8], with_column(both, "image_key", [keys[3]]))

    problems = {problem.key: problem for problem in verify(store)}
    assert {key: problem.kind for key, problem in problems.items()} == {
        part(layout.CLASS_SUMMARIES, dates[2]): "miscounted",
        part(layout.CLASS_SUMMARIES, dates[4]): "lost",
        part(layout.CLASS_SUMMARIES, dates[10]): "miscounted",
        part(layout.PREDICTIONS, dates[6]): "duplicate",
        part(layout.QUARANTINE, dates[8]): "duplicate",
    }
    assert "line 1, class 4 has num_images" in problems[part("class_summaries", dates[2])].message
    assert "line 2, class 4 is only in the predictions" in (
        problems[part("class_summaries", dates[10])].message
    )
    assert f"for example {keys[3]}" in problems[part("quarantine", dates[8])].message


LIVE = st.builds(
    lambda place, name, num_rows, size: LiveFile(
        key=f"{place}/{name}", engine="e", date=f"{place}", size_bytes=size, num_rows=num_rows
    ),
    st.integers(1, 40), st.integers(), st.integers(0, 400_000), st.integers(0, 100 << 20),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(layout.TABLES), st.lists(LIVE, unique_by=lambda f: f.key)))
def test_each_file_is_checked_once_together_with_its_date(
    live: dict[str, list[LiveFile]],
) -> None:
    batches = list(_batches(live))
    for table, files in live.items():
        assert sorted(f.key for b in batches for f in b[table]) == sorted(f.key for f in files)
    dates = [{f.date for each in batch.values() for f in each} for batch in batches]
    assert sum(map(len, dates)) == len(set().union(*dates))
    for batch, its_dates in zip(batches, dates, strict=True):
        num_rows = sum(f.num_rows for each in batch.values() for f in each)
        assert len(its_dates) == 1 or num_rows <= AT_ONCE[0]


def test_a_folder_among_the_runs_that_is_no_run_is_left_alone(store: Lake) -> None:
    store.write("runs/notes/today.txt", b"mine")
    assert found(store) == []


def test_the_run_of_a_file_stands_in_its_name() -> None:
    run_id = layout.run_id(ENGINE, DATE, 12)
    assert run_of(layout.table_file("predictions", ENGINE, DATE, run_id, 3)) == run_id
    assert run_of("predictions/engine=x/date=y/somebody.parquet") is None
    assert run_of("predictions/engine=x/date=y/part-x-0.parquet") is None
