"""The rows of a folder's files are the same, whether DuckDB or Arrow reads them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import hypothesis
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.folder_dataset import FORMAT, FolderDataset, fragments_of
from steel_batch.tables.table_log import SCHEMAS, LiveFile, all_live_files, ensure_tables
from tests.conftest import examples
from tests.golden_store import copy_golden_store
from tests.made_up_run import commit_run, image_keys
from tests.opened_files import opened_files
from tests.tables.predicates import predicates
from tests.tables.test_readers_agree import KEYS, Rows, frame_of, make_new_store

Readers = tuple[FolderDataset, ds.Dataset]


def by_path(store: Lake, table: str) -> dict[str, LiveFile]:
    return {file.key.removeprefix(f"{table}/"): file for file in all_live_files(store, table)}


def read_by_duckdb(store: Lake, table: str) -> FolderDataset:
    return FolderDataset(store.uri(table), by_path(store, table), SCHEMAS[table], many=1)


def read_by_arrow(store: Lake, table: str) -> ds.Dataset:
    there = pa_fs.SubTreeFileSystem(store.uri(table), pa_fs.LocalFileSystem())
    fields = SCHEMAS[table]
    fragments = fragments_of(by_path(store, table), fields, there)
    return ds.FileSystemDataset(fragments, fields, FORMAT, there)


@pytest.fixture(scope="module")
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@pytest.fixture(scope="module", params=["old", "upgraded", "new"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp(request.param) / "store"
    if request.param == "new":
        return make_new_store(folder)
    golden = copy_golden_store(folder).store
    if request.param == "upgraded":
        ensure_tables(golden)
        commit_run(golden, image_keys(4))
    return golden


@pytest.fixture(scope="module", params=layout.TABLES)
def rows(request: pytest.FixtureRequest, store: Lake) -> Rows:
    return Rows(store=store, table=request.param, frame=frame_of(store, request.param))


@pytest.fixture(scope="module")
def readers(rows: Rows) -> Readers:
    return read_by_duckdb(rows.store, rows.table), read_by_arrow(rows.store, rows.table)


@hypothesis.settings(
    max_examples=examples(25),
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_both_readers_find_the_same_rows(
    data: st.DataObject, rows: Rows, readers: Readers, con: duckdb.DuckDBPyConnection
) -> None:
    fields, keys = SCHEMAS[rows.table], KEYS[rows.table]
    held = pa.schema([f for f in fields if f.name in rows.frame.columns])
    where = data.draw(st.none() | predicates(rows.frame, held))
    names = data.draw(st.lists(st.sampled_from(fields.names), unique=True))
    names += [key for key in ("engine", *keys) if key not in names]
    condition = None if where is None else where.arrow
    found, expected = (dataset.to_table(columns=names, filter=condition) for dataset in readers)
    assert found.schema.equals(expected.schema)
    order = [(key, "ascending") for key in ("engine", *keys)]
    assert found.sort_by(order).to_pylist() == expected.sort_by(order).to_pylist()
    if where is not None:
        con.register("found", readers[0])
        sql = f"SELECT {', '.join(keys)} FROM found WHERE {where.sql}"
        assert rows.keys(con.sql(sql).to_arrow_table()) == rows.expected(where)


def test_duckdb_reads_files_that_are_many_and_of_matching_dates(store: Lake) -> None:
    files = by_path(store, layout.CLASS_SUMMARIES)
    date = SCHEMAS[layout.CLASS_SUMMARIES].field("date").type
    one = next(iter(files.values()))
    of_date = {path for path, file in files.items() if file.date == one.date}
    for many, wanted, expected in (
        (1, None, set(files)),
        (1, one.date, of_date),
        (len(files), None, set(files)),
        (len(files) + 1, None, set()),  # Arrow opens them later
    ):
        folder = store.uri(layout.CLASS_SUMMARIES)
        dataset = FolderDataset(folder, files, SCHEMAS[layout.CLASS_SUMMARIES], many=many)
        with opened_files(Path(folder)) as seen:
            where = None if wanted is None else ds.field("date") == pa.scalar(wanted).cast(date)
            dataset.scanner(columns=["num_images"], filter=where)
        assert seen == expected


def test_files_of_other_programs_are_left_to_arrow(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    for date in ("2026-11-20", "2026-11-21"):
        commit_run(store, image_keys(2), date=date)
    expected = read_by_arrow(store, layout.PREDICTIONS).to_table(columns=["date", "scored_at"])
    folder, files = store.uri(layout.PREDICTIONS), by_path(store, layout.PREDICTIONS)
    path, file = files.popitem()
    other = f"{path.rpartition('/')[0]}/part-00000-0a1b2c3d.c000.zstd.parquet"
    rows = pq.ParquetFile(f"{folder}/{path}").read()
    # As Spark writes them: these times have no zone.
    pq.write_table(rows, f"{folder}/{other}", use_deprecated_int96_timestamps=True)
    files[other] = dataclasses.replace(file, key=f"{layout.PREDICTIONS}/{other}")
    dataset = FolderDataset(folder, files, SCHEMAS[layout.PREDICTIONS], many=1)
    with opened_files(Path(folder)) as seen:
        scanner = dataset.scanner(columns=["date", "scored_at"])
    assert seen == set()
    assert scanner.to_table().equals(expected)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores by their number of images."""
    folder = tmp_path_factory.mktemp("stores")
    for number in range(2, 6):
        commit_run(Lake(str(folder / str(number))), image_keys(number))
    return {number: folder / str(number) for number in range(2, 6)}


_COUNT = """
import json, sys
from steel_batch import layout
from steel_batch.lake import Lake
from steel_batch.tables.folder_dataset import FolderDataset
from steel_batch.tables.table_log import SCHEMAS, all_live_files

def peak():  # of this program, in MiB; what `resource` states begins with that of its parent
    (line,) = (one for one in open("/proc/self/status") if one.startswith("VmHWM"))
    return int(line.split()[1]) // 1024

table, store = layout.CLASS_SUMMARIES, Lake(sys.argv[1])
files = {f.key.removeprefix(f"{table}/"): f for f in all_live_files(store, table)}
dataset = FolderDataset(store.uri(table), files, SCHEMAS[table], many=1)
before = peak()
num_rows = sum(b.num_rows for b in dataset.scanner(columns=sys.argv[2:]).to_batches())
after = peak()
print(json.dumps([num_rows, after - before]))
"""


def test_a_small_file_of_very_many_rows_is_not_in_memory_at_once(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    commit_run(store, image_keys(2))
    (key,) = (file.key for file in all_live_files(store, layout.CLASS_SUMMARIES))
    columns = ["line", "class_name", "num_images", "num_defective"]
    with pq.ParquetFile(store.uri(key)) as file:
        rows = file.read(columns)
    many = pa.concat_tables([rows] * 20_000).combine_chunks()
    with pq.ParquetWriter(store.uri(key), rows.schema, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(many)
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, store.url, *columns],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    num_rows, more_mib = json.loads(done.stdout)
    assert num_rows == 100 * many.num_rows
    assert more_mib < 450, f"{num_rows} rows of {columns}"


@pytest.mark.parametrize("name", ["[ab]", "a*", "a?", "a b", "date=1", "Ä", "it's"])
def test_a_folder_may_have_any_name(stores: dict[int, Path], tmp_path: Path, name: str) -> None:
    for number, folder in enumerate((name, "a", "ab", "a b"), 2):  # what a pattern might match
        if not (tmp_path / folder).exists():
            shutil.copytree(stores[number], tmp_path / folder)
    found = read_by_duckdb(Lake(str(tmp_path / name)), layout.PREDICTIONS)
    assert sorted(found.to_table(columns=["image_key"])["image_key"].to_pylist()) == image_keys(2)


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    commit_run(store, image_keys(2))
    files = by_path(store, layout.PREDICTIONS)
    (path, file), *_ = files.items()
    (tmp_path / "store" / path.rpartition("/")[2]).write_bytes(
        Path(store.uri(file.key)).read_bytes()
    )
    outside = f"../{path.rpartition('/')[2]}"
    with pytest.raises(LakeError, match=r"lists the file '\.\./.*must stay under"):
        FolderDataset(
            store.uri(layout.PREDICTIONS),
            {outside: dataclasses.replace(file, key=f"predictions/{outside}")},
            SCHEMAS[layout.PREDICTIONS],
        )
