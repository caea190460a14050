"""`verify` finds whatever is wrong with a store, and nothing where nothing is."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch import layout, schema
from steel_batch.errors import ConfigError, LakeError
from steel_batch.lake import Lake
from steel_batch.tables.committed import WHOLE_BYTES, read_rows
from steel_batch.tables.table_log import LiveFile, all_live_files, live_files
from steel_batch.tables.verify import AT_ONCE, _batches, run_of, verify
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
from tests.tables.conftest import sound_store
from tests.tables.sound_store import OTHER_DATE, fill, first_file, found, relist, with_column

store = sound_store


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


def test_one_engine_or_date_can_be_checked_alone(store: Lake) -> None:
    key = first_file(store)
    store.delete([key])
    assert found(store, date=OTHER_DATE) == []
    assert found(store, engine=ENGINE, date=DATE) == [("missing", key)]


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
