"""Commits: once, in all three tables, for every reader, whatever becomes of the log's writes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import s3fs
from deltalake import DeltaTable

from steel_batch import layout, schema
from steel_batch.errors import (
    CommitConflictError,
    CommitUnknownError,
    LakeError,
    LockHeldError,
    StaleChangeError,
)
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.runs.record import RunRecord
from steel_batch.tables.commit import land
from steel_batch.tables.committed import (
    digest_files,
    files_of_date,
    known_images,
    quarantined_keys,
    read_file,
)
from steel_batch.tables.fence import fence
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.query import run_query
from steel_batch.tables.summary import FIELDS
from steel_batch.tables.sweep import sweep
from steel_batch.tables.table_log import (
    SCHEMAS,
    all_live_files,
    ensure_tables,
    landed,
    live_files,
    open_table,
)
from tests.conftest import new_bucket
from tests.log_proxy import CONFLICT, LOSE_ANSWER, LOSE_REQUEST, LogProxy, log_proxy
from tests.made_up_run import (
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    keys_of,
    made_up_row,
    merge,
    parquet,
    rows_table,
    score_shards,
)

PREDICTIONS = layout.PREDICTIONS


@pytest.fixture
def folder(tmp_path: Path) -> Lake:
    """For what does not depend on the kind of store."""
    return Lake(str(tmp_path / "folder"))


def ready(store: Lake, num: int = 8, **settings: Any) -> tuple[RunRecord, list[DataFile]]:
    """A run whose files are merged."""
    record = begin(store, image_keys(num), **settings)
    score_shards(store, record)
    return record, merge(store, record)


def image_keys_in(store: Lake, table: str = PREDICTIONS) -> list[str]:
    """What a Delta reader sees."""
    rows = run_query(store, f"SELECT image_key FROM {table} ORDER BY 1")
    return [str(key) for key in rows["image_key"].to_pylist()]


# --- the tables -----------------------------------------------------------------------------


def test_tables_are_made_once_and_empty(folder: Lake) -> None:
    ensure_tables(folder)
    before = keys_of(folder)
    ensure_tables(folder)
    assert keys_of(folder) == before
    for table in layout.TABLES:
        assert open_table(folder, table).version() == 0
        assert all_live_files(folder, table) == []
        fields = run_query(folder, f"SELECT * FROM {table}").schema
        assert fields.names == SCHEMAS[table].names


def test_two_first_runs_may_make_the_tables_at_once(lake: Lake) -> None:
    errors: list[Exception] = []

    def make() -> None:
        try:
            ensure_tables(Lake(lake.url, endpoint_url=lake.endpoint_url))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [open_table(lake, table).version() for table in SCHEMAS] == [0, 0, 0]
    commit_run(lake, image_keys(4))
    assert image_keys_in(lake) == sorted(image_keys(4))


def test_a_store_without_tables_says_that_nothing_was_scored(lake: Lake) -> None:
    assert all_live_files(lake, PREDICTIONS) == []
    assert not landed(lake, PREDICTIONS, "r")
    with pytest.raises(LakeError, match=f"no table {lake.url}/predictions: nothing has been"):
        open_table(lake, PREDICTIONS)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        LakeError, match=r"file/store/predictions cannot be created: .*Check --store"
    ):
        ensure_tables(Lake(str(tmp_path / "file" / "store")))


# --- landing --------------------------------------------------------------------------------


def test_a_landed_run_is_in_all_three_tables(lake: Lake) -> None:
    keys = image_keys(12)
    result = commit_run(lake, keys, bad=keys[:2])
    assert image_keys_in(lake) == sorted(keys[2:])
    assert image_keys_in(lake, "quarantine") == sorted(keys[:2])
    assert len(run_query(lake, "SELECT * FROM class_summaries")) == 2 * 4
    for table in layout.TABLES:
        assert landed(lake, table, str(result.run_id))
        (file,) = live_files(lake, table, ENGINE, DATE)
        assert file.key == layout.table_file(table, ENGINE, DATE, str(result.run_id), 0)
        found = lake.stat(file.key)
        assert found is not None
        assert found.size_bytes == file.size_bytes


def test_a_commit_repeated_under_one_run_id_lands_once_in_all_three_tables(lake: Lake) -> None:
    record = begin(lake, image_keys(8))
    score_shards(lake, record, bad=image_keys(1))
    files = merge(lake, record)
    finish(lake, record, files)
    seen = {table: everything(lake, table) for table in layout.TABLES}
    before = keys_of(lake, "predictions/") | keys_of(lake, "quarantine/")
    finish(lake, record, files)
    finish(Lake(lake.url, endpoint_url=lake.endpoint_url), record, files)
    assert {table: everything(lake, table) for table in layout.TABLES} == seen
    assert keys_of(lake, "predictions/") | keys_of(lake, "quarantine/") == before
    for table in layout.TABLES:
        assert open_table(lake, table).version() == 1


def everything(store: Lake, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_query(store, f"SELECT * FROM {table} ORDER BY ALL").to_pylist()
    return rows


def test_of_four_writers_of_one_run_one_lands(lake: Lake) -> None:
    """What a lock that was lost unnoticed would bring about."""
    record, files = ready(lake)
    versions: list[int] = []

    def write() -> None:
        store = Lake(lake.url, endpoint_url=lake.endpoint_url)
        versions.append(land(store, PREDICTIONS, record.run_id, files))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [1, 1, 1, 1]
    assert image_keys_in(lake) == sorted(image_keys(8))


def test_runs_of_other_dates_land_beside_each_other(folder: Lake) -> None:
    dates = [f"2026-11-{day}" for day in range(10, 14)]
    runs = [ready(folder, 4, date=date) for date in dates]

    def write(record: RunRecord, files: list[DataFile]) -> None:
        land(Lake(folder.url, endpoint_url=folder.endpoint_url), PREDICTIONS, record.run_id, files)

    threads = [threading.Thread(target=write, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = run_query(folder, "SELECT date, count(*) AS n FROM predictions GROUP BY 1 ORDER BY 1")
    assert [(str(row["date"]), row["n"]) for row in found.to_pylist()] == [(d, 4) for d in dates]


def test_nothing_is_published_where_the_lock_is_lost(folder: Lake) -> None:
    record, files = ready(folder)

    def lost() -> None:
        raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        land(folder, PREDICTIONS, record.run_id, files, before=lost)
    assert not [key for key in keys_of(folder, "predictions/") if "part-" in key]


def test_nothing_is_committed_where_the_lock_is_lost_while_files_are_published(
    folder: Lake,
) -> None:
    record, files = ready(folder)

    def lost() -> None:
        if any("part-" in key for key in keys_of(folder, "predictions/")):
            raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        land(folder, PREDICTIONS, record.run_id, files, before=lost)
    assert not landed(folder, PREDICTIONS, record.run_id)
    assert all_live_files(folder, PREDICTIONS) == []
    assert image_keys_in(folder) == []


def test_replaced_files_leave_with_the_commit_and_are_deleted_by_the_next_sweep(
    folder: Lake,
) -> None:
    first = commit_run(folder, image_keys(8))
    (old,) = live_files(folder, PREDICTIONS, ENGINE, DATE)
    record, files = ready(folder, 12)
    land(folder, PREDICTIONS, record.run_id, files, replaced=[old])
    assert image_keys_in(folder) == sorted(image_keys(12))
    assert folder.stat(old.key) is not None, "readers of the version before may still need it"
    assert swept(folder) == [old.key]
    assert image_keys_in(folder) == sorted(image_keys(12))
    assert landed(folder, PREDICTIONS, str(first.run_id))


def swept(store: Lake) -> list[str]:
    """What a sweep of all tables deletes."""
    return [
        key
        for table in layout.TABLES
        for key in sweep(store, table, ENGINE, DATE, before=lambda: None)
    ]


def test_a_sweep_deletes_nothing_where_another_took_the_lock_and_committed_since(
    folder: Lake,
) -> None:
    record, files = ready(folder)
    for file in files:
        folder.copy(file.merged, file.target)

    def lost() -> None:
        land(folder, PREDICTIONS, record.run_id, files)
        raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        sweep(folder, PREDICTIONS, ENGINE, DATE, before=lost)
    assert image_keys_in(folder) == sorted(image_keys(8))


def test_the_digest_of_a_dates_files_is_another_one_once_a_run_lands(folder: Lake) -> None:
    keys = image_keys(6)
    seen = [digest_files(files_of_date(folder, ENGINE, DATE))]
    for bad in ([], keys):  # of the second run all images are quarantined
        commit_run(folder, keys, bad=bad)
        seen.append(digest_files(files_of_date(folder, ENGINE, DATE)))
    assert len(set(seen)) == 3
    commit_run(folder, keys, date="2026-11-22")
    assert digest_files(files_of_date(folder, ENGINE, DATE)) == seen[-1]


def test_a_sweep_takes_what_runs_left_and_nothing_else(folder: Lake) -> None:
    commit_run(folder, image_keys(4))
    commit_run(folder, image_keys(4), date="2026-11-22")
    left = layout.table_file(PREDICTIONS, ENGINE, DATE, layout.run_id(ENGINE, DATE, 7), 0)
    others = {
        f"predictions/{layout.partition(ENGINE, DATE)}/mine.parquet",
        layout.table_file(PREDICTIONS, ENGINE, "2026-11-22", layout.run_id(ENGINE, DATE, 7), 0),
        "predictions/notes.txt",
    }
    for key in {left} | others:
        folder.write(key, b"x")
    before = keys_of(folder)
    assert swept(folder) == [left]
    assert keys_of(folder) == before - {left}


def test_committed_and_quarantined_images_are_known_to_the_next_plan(folder: Lake) -> None:
    keys = image_keys(6)
    commit_run(folder, keys, bad=keys[:1])
    commit_run(folder, image_keys(3, first=100), date="2026-11-22")

    batches = known_images(folder, files_of_date(folder, ENGINE, DATE))
    found = {row["image_key"]: row["error_code"] for b in batches for row in b.to_pylist()}
    assert found == {key: "empty" if key == keys[0] else None for key in keys}
    assert list(quarantined_keys(folder, ENGINE, DATE)) == keys[:1]


@pytest.mark.s3
def test_a_summary_reads_no_run_lengths(bucket: str, s3_endpoint: str) -> None:
    rng = random.Random(1)
    rows = [made_up_row(key, "r") for key in image_keys(800)]
    for defect in (defect for row in rows for defect in row["defects"]):
        defect["rle"] = " ".join(str(rng.randrange(400_000)) for _ in range(500))
    data = parquet(rows_table(rows))
    store = Lake(f"{bucket}/store", endpoint_url=s3_endpoint)
    store.write("k.parquet", data)
    before = store.counts().get("bytes_read", 0)
    batches = list(read_file(store, "k.parquet", FIELDS))
    assert store.counts()["bytes_read"] - before < len(data) / 4
    found = [row for batch in batches for row in batch.to_pylist()]
    assert found == pa.Table.from_pylist(rows, schema=FIELDS).to_pylist()


@pytest.mark.parametrize("damage", ["cut off", "changed", "gone"])
def test_a_committed_file_that_is_damaged_is_named_to_the_next_plan(
    damage: str, folder: Lake
) -> None:
    commit_run(folder, image_keys(50))
    (file,) = live_files(folder, PREDICTIONS, ENGINE, DATE)
    data = folder.read(file.key)
    if damage == "gone":
        folder.delete([file.key])
    else:
        damaged = data[:-50] if damage == "cut off" else data[:4] + b"\x55" * 400 + data[404:]
        folder.write(file.key, damaged)
    with pytest.raises(
        LakeError, match=f"{file.key} is committed but cannot be read: .* verify` l"
    ):
        list(known_images(folder, files_of_date(folder, ENGINE, DATE)))
    with pytest.raises(LakeError, match=r"^a committed file cannot be read: .*verify --") as it:
        run_query(folder, "SELECT max(image_key) FROM predictions")
    assert "\n" not in str(it.value)


# --- three outcomes -------------------------------------------------------------------------


def test_a_commit_that_surely_failed_deletes_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """Its run may have lost the lock since, and the next holder may be committing the same."""
    store = Lake(str(tmp_path))
    record, files = ready(store)
    # No writer can put an entry that is a folder: to each try it looks like another who was first.
    taken = tmp_path / "predictions/_delta_log/00000000000000000001.json"
    taken.mkdir()
    with pytest.raises(CommitConflictError, match=r"2 times; .* run the same command again"):
        land(store, PREDICTIONS, record.run_id, files, attempts=2)
    assert all(store.stat(key) for file in files for key in (file.merged, file.target))
    taken.rmdir()
    assert image_keys_in(store) == []
    assert swept(store) == [file.target for file in files]
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert image_keys_in(store) == sorted(image_keys(8))


@pytest.fixture
def behind(s3_endpoint: str, bucket: str) -> Iterator[tuple[Lake, LogProxy]]:
    """A store on S3 whose log's writes can go wrong."""
    with log_proxy(s3_endpoint) as (proxy, url):
        yield Lake(f"{bucket}/store", endpoint_url=url, retry=Retry(total_seconds=0.4)), proxy


@pytest.mark.s3
def test_a_commit_whose_answer_was_lost_landed_once(behind: tuple[Lake, LogProxy]) -> None:
    store, proxy = behind
    record, files = ready(store)
    proxy.num_writes, proxy.faults = 0, [LOSE_ANSWER, "pass"]
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert proxy.num_writes >= 1
    assert image_keys_in(store) == sorted(image_keys(8))
    assert land(store, PREDICTIONS, record.run_id, files) == 1


@pytest.mark.s3
@pytest.mark.parametrize(
    "faults", [[LOSE_REQUEST], [LOSE_REQUEST, CONFLICT]], ids=["always lost", "lost once"]
)
def test_unknown_commit_deletes_nothing(behind: tuple[Lake, LogProxy], faults: list[str]) -> None:
    """A write that nobody answered may still arrive, whatever became of those after it."""
    store, proxy = behind
    record, files = ready(store)
    proxy.faults = faults
    with pytest.raises(CommitUnknownError, match="it is unknown") as raised:
        land(store, PREDICTIONS, record.run_id, files, attempts=2)
    assert str(raised.value).isprintable(), "one paragraph, without a terminal's colours"
    assert {file.target for file in files} <= keys_of(store, "predictions/")
    assert {file.merged for file in files} <= keys_of(store, "runs/")
    proxy.faults = []
    assert land(store, PREDICTIONS, record.run_id, files) == 1
    assert image_keys_in(store) == sorted(image_keys(8))


# --- readers --------------------------------------------------------------------------------

READERS = ("duckdb", "pandas", "polars", "pyarrow", "deltalake")


def test_every_reader_sees_the_same_rows(lake: Lake) -> None:
    """Two engines, two dates, several files: by the plain glob, and by the Delta table."""
    keys = image_keys(10, lines=("1", None))
    expected = set()
    for engine, date in ((ENGINE, DATE), ("other-ffffffffffff", "2026-11-22")):
        commit_run(lake, keys, engine=engine, date=date, merge_bytes=1)
        expected |= {seen({**made_up_row(key, ""), "engine": engine, "date": date}) for key in keys}
    for reader in READERS:
        found = [seen(row) for row in read_with(reader, lake)]
        assert len(found) == 20, reader
        assert set(found) == expected, reader


def test_duckdb_reads_the_delta_table_itself(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    commit_run(store, image_keys(8))
    with duckdb.connect() as con:
        try:
            con.execute("LOAD delta")
        except duckdb.Error:
            pytest.skip("DuckDB's delta extension is not installed here")
        found = con.sql(f"SELECT image_key FROM delta_scan('{tmp_path}/predictions')").fetchall()
    assert sorted(key for (key,) in found) == sorted(image_keys(8))


def seen(row: dict[str, Any]) -> tuple[object, ...]:
    """What of a row is compared: partition, plain, nullable and nested columns."""
    area = sum(defect["area_px"] for defect in row["defects"])
    date = str(row["date"])[:10]
    return (row["engine"], date, row["image_key"], row["line"], row["has_defect"], area)


def read_with(reader: str, lake: Lake) -> list[dict[str, Any]]:
    root = f"{lake.url}/predictions"
    glob = f"{root}/*/*/*.parquet"
    options = {}
    if lake.is_s3:
        options = {"key": "testing", "secret": "testing", "endpoint_url": lake.endpoint_url}
    rows: list[dict[str, Any]]
    if reader == "pandas":
        frame = pd.read_parquet(root, storage_options=options or None)
        rows = (
            frame.astype(object).where(frame.notna() | frame.map(is_list), None).to_dict("records")
        )
    elif reader == "polars":
        keys = {k: v for k, v in lake.storage_options().items() if k.startswith("AWS_")}
        rows = pl.read_parquet(
            glob, hive_partitioning=True, storage_options=keys or None
        ).to_dicts()
    elif reader == "pyarrow":
        if lake.is_s3:
            fs = s3fs.S3FileSystem(**options)
            dataset = ds.dataset(root.removeprefix("s3://"), filesystem=fs, partitioning="hive")
        else:
            dataset = ds.dataset(root, partitioning="hive")
        rows = dataset.to_table().to_pylist()
    elif reader == "deltalake":
        table = DeltaTable(root, storage_options=lake.storage_options())
        rows = table.to_pyarrow_table().to_pylist()
    else:
        with duckdb.connect() as con:
            if lake.is_s3:
                con.register_filesystem(s3fs.S3FileSystem(**options))
            rows = con.sql(f"SELECT * FROM '{glob}'").to_arrow_table().to_pylist()
    return rows


def is_list(value: object) -> bool:
    return not isinstance(value, (str, float, int, type(None)))


def test_files_hold_the_tables_schemas_without_what_stands_in_their_path(folder: Lake) -> None:
    commit_run(folder, image_keys(4), bad=image_keys(1))
    for table, fields in {
        "predictions": schema.PREDICTIONS,
        "class_summaries": schema.CLASS_SUMMARIES,
        "quarantine": schema.QUARANTINE,
    }.items():
        (file,) = all_live_files(folder, table)
        with folder.open_input(file.key) as stream:
            assert ds.ParquetFileFormat().inspect(stream).equals(fields)


def test_delta_readers_skip_files_of_other_lines(folder: Lake) -> None:
    commit_run(folder, image_keys(16), merge_bytes=1)
    dataset = open_table(folder, PREDICTIONS).to_pyarrow_dataset()
    assert len(list(dataset.get_fragments())) == 4
    assert len(list(dataset.get_fragments(ds.field("line") == "2"))) == 2
    assert len(list(dataset.get_fragments(ds.field("line") == "3"))) == 0


def test_the_log_names_the_run_that_wrote_it(folder: Lake) -> None:
    result = commit_run(folder, image_keys(4))
    entry = folder.read("predictions/_delta_log/00000000000000000001.json").decode()
    actions = [json.loads(line) for line in entry.splitlines()]
    (transaction,) = [action["txn"] for action in actions if "txn" in action]
    assert transaction["appId"] == result.run_id


# --- writers that come in between -----------------------------------------------------------


@pytest.mark.parametrize("rewrite", ["z_order", "delete"])
def test_a_commit_is_not_made_where_a_file_to_replace_was_rewritten(
    rewrite: str, folder: Lake
) -> None:
    commit_run(folder, image_keys(8))
    old = live_files(folder, PREDICTIONS, ENGINE, DATE)
    record, files = ready(folder)
    rewrite_table(folder, rewrite)
    before = everything(folder, PREDICTIONS)
    with pytest.raises(StaleChangeError, match="were rewritten by another writer, such as an OPT"):
        land(folder, PREDICTIONS, record.run_id, files, replaced=old)
    assert everything(folder, PREDICTIONS) == before
    assert not landed(folder, PREDICTIONS, record.run_id)


def rewrite_table(store: Lake, how: str) -> None:
    """What somebody else does to the predictions."""
    table = DeltaTable(store.uri(PREDICTIONS))
    if how == "z_order":
        table.optimize.z_order(["image_key"])
    else:
        table.delete("image_key = '1/im00000.jpg'")


def test_what_another_writer_does_right_before_the_log_is_written_is_seen(folder: Lake) -> None:
    """Between reading the table and writing its log: no rebase onto what was not read."""
    commit_run(folder, image_keys(8))
    old = live_files(folder, PREDICTIONS, ENGINE, DATE)
    record, files = ready(folder)
    asked: list[int] = []

    def rewrite_at_last() -> None:
        asked.append(1)
        if len(asked) == len(files) + 1:  # behind the copies: the table was read
            rewrite_table(folder, "z_order")

    with pytest.raises(StaleChangeError):
        land(folder, PREDICTIONS, record.run_id, files, replaced=old, before=rewrite_at_last)
    assert image_keys_in(folder) == sorted(image_keys(8))


def test_a_suspended_writer_does_not_land_once_the_lock_was_taken_over(folder: Lake) -> None:
    """It asked for the lock, and before it writes the log another one takes it and puts a fence."""
    record, files = ready(folder)
    asked: list[int] = []

    def suspended() -> None:
        asked.append(1)
        if len(asked) == len(files) + 1:
            fence(folder, ENGINE, DATE)  # the lock was asked for, and is lost right after
        elif len(asked) > len(files) + 1:
            raise LockHeldError("another run took it over.")

    with pytest.raises(LockHeldError):
        land(folder, PREDICTIONS, record.run_id, files, before=suspended)
    assert not landed(folder, PREDICTIONS, record.run_id)
    assert image_keys_in(folder) == []


def test_a_fence_changes_no_row_and_lets_the_next_holder_land(folder: Lake) -> None:
    commit_run(folder, image_keys(8), bad=image_keys(1))
    before = {table: everything(folder, table) for table in layout.TABLES}
    for _ in range(2):
        fence(folder, ENGINE, DATE)
    assert {table: everything(folder, table) for table in layout.TABLES} == before
    commit_run(folder, image_keys(4, first=20))
    assert len(image_keys_in(folder)) == 7 + 4


@pytest.mark.s3
def test_a_commit_whose_log_entry_another_writer_replaced_is_made_again(
    ignoring_endpoint: str,
) -> None:
    """The store says 200 to both; what it has then decides."""
    store = Lake(f"{new_bucket(ignoring_endpoint)}/store", endpoint_url=ignoring_endpoint)
    record, files = ready(store)
    other, others_files = ready(store, 4, date="2026-11-22")
    stolen: list[int] = []

    class Overtaken(Lake):
        """Lets another date's commit replace the log's entry, right after it was written."""

        def call_with_retry(self, what: str, request: Any) -> Any:
            entry = f"{PREDICTIONS}/_delta_log/00000000000000000001.json"
            if not stolen and store.stat(entry) is not None:
                stolen.append(1)
                store.delete([entry])
                land(store, PREDICTIONS, other.run_id, others_files)
            return super().call_with_retry(what, request)

    land(Overtaken(store.url, endpoint_url=store.endpoint_url), PREDICTIONS, record.run_id, files)
    assert stolen
    assert landed(store, PREDICTIONS, record.run_id)
    assert landed(store, PREDICTIONS, other.run_id)
    assert len(image_keys_in(store)) == 8 + 4


def test_a_sweep_keeps_what_was_just_committed_whatever_the_log_says(folder: Lake) -> None:
    record, files = ready(folder)
    land(folder, PREDICTIONS, record.run_id, files)
    (Path(folder.url) / "predictions/_delta_log/00000000000000000001.json").unlink()
    keep = {file.target for file in files}
    assert sweep(folder, PREDICTIONS, ENGINE, DATE, before=lambda: None, keep=keep) == []
    assert all(folder.stat(key) is not None for key in keep)


def test_a_sweep_takes_a_compacted_file_that_a_later_run_replaced(folder: Lake) -> None:
    commit_run(folder, image_keys(8))
    rewrite_table(folder, "z_order")
    (compacted,) = live_files(folder, PREDICTIONS, ENGINE, DATE)
    commit_run(folder, image_keys(8), retry_quarantined=True)
    assert folder.stat(compacted.key) is None
    assert image_keys_in(folder) == sorted(image_keys(8))
    # As anybody who reads the plain files sees it.
    assert len(pd.read_parquet(folder.uri(PREDICTIONS))) == 8
