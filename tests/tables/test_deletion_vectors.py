"""Rows that other programs deleted with deletion vectors are invisible to every command."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from steel_batch import layout
from steel_batch.cli import cli
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.committed import digest_files, files_of_date, known_images
from steel_batch.tables.deletion_vectors import _packed, select
from steel_batch.tables.query import run_query
from steel_batch.tables.table_log import all_live_files, ensure_tables, live_files
from steel_batch.tables.verify import verify
from tests.made_up_run import (
    DATE,
    ENGINE,
    begin,
    commit_run,
    finish,
    image_keys,
    keys_of,
    merge,
    score_shards,
)
from tests.tables.deleted_rows import delete_rows, set_features

KEYS = sorted(image_keys(12))
PREDICTIONS = layout.PREDICTIONS


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("committed") / "store"
    commit_run(Lake(str(path)), image_keys(14), bad=image_keys(2, first=12), merge_bytes=1)
    return path


@pytest.fixture
def store(committed: Path, tmp_path: Path) -> Lake:
    """Two files of predictions with twelve rows, and entries of two images in quarantine."""
    shutil.copytree(committed, tmp_path / "store")
    return Lake(str(tmp_path / "store"))


def keys_in(store: Lake, table: str = PREDICTIONS, where: str = "true") -> list[str]:
    rows = run_query(store, f"SELECT image_key FROM {table} WHERE {where} ORDER BY 1")
    return [str(key) for key in rows["image_key"].to_pylist()]


def delete_some(store: Lake, table: str = PREDICTIONS) -> list[str]:
    """Delete rows of a table's first file; the keys of those that are left."""
    set_features(store, table)
    (file, *_) = live_files(store, table, ENGINE, DATE)
    first = [r for batch in known_rows(store, file.key) for r in batch]
    delete_rows(store, table, file, [0, 2])
    gone = {first[0], first[2 % len(first)]}
    return [key for key in keys_before(store, table) if key not in gone]


def known_rows(store: Lake, key: str) -> list[list[str]]:
    return [pl.read_parquet(store.uri(key))["image_key"].to_list()]


def keys_before(store: Lake, table: str) -> list[str]:
    frame = pl.read_parquet(f"{store.uri(table)}/*/*/*.parquet", hive_partitioning=True)
    return sorted(frame["image_key"].to_list())


def test_a_table_that_can_have_deletion_vectors_is_read_as_before(store: Lake) -> None:
    for table in layout.TABLES:
        set_features(store, table)
    assert keys_in(store) == KEYS
    listed = CliRunner().invoke(cli, ["quarantine", "list", "--store", store.url])
    assert (listed.exit_code, listed.output.count("empty")) == (0, 2), listed.output
    assert list(verify(store)) == []


def test_a_query_leaves_deleted_rows_out(store: Lake) -> None:
    left = delete_some(store)
    assert len(left) == len(KEYS) - 2
    assert keys_in(store) == left
    assert keys_in(store, where="width = 160 AND date = '2026-11-21'") == left
    assert keys_in(store, where="width = 1 OR line IS NULL") == []
    with_polars = pl.scan_delta(store.uri(PREDICTIONS)).select("image_key").collect()
    assert sorted(with_polars["image_key"]) == left


@pytest.mark.quick("folder")
def test_deleted_rows_are_left_out_of_any_kind_of_store(lake: Lake) -> None:
    keys = image_keys(6, lines=("1",))
    commit_run(lake, keys)
    set_features(lake, PREDICTIONS)
    (file,) = live_files(lake, PREDICTIONS, ENGINE, DATE)
    delete_rows(lake, PREDICTIONS, file, [0, 5])
    assert keys_in(lake, where="line = '1'") == keys[1:5]
    commit_run(lake, image_keys(1, first=90))
    assert keys_in(lake) == [*keys[1:5], *image_keys(1, first=90)]
    assert list(verify(lake)) == []


def test_deleted_entries_are_not_listed(store: Lake) -> None:
    set_features(store, "quarantine")
    (file,) = live_files(store, "quarantine", ENGINE, DATE)
    delete_rows(store, "quarantine", file, [0])
    listed = CliRunner().invoke(cli, ["quarantine", "list", "--store", store.url])
    assert (listed.exit_code, listed.output.count("empty")) == (0, 1), listed.output


def test_an_image_whose_row_was_deleted_has_none(store: Lake) -> None:
    left = delete_some(store)
    before = digest_files(files_of_date(store, ENGINE, DATE))
    rows = [
        row
        for batch in known_images(store, files_of_date(store, ENGINE, DATE))
        for row in batch.to_pylist()
    ]
    assert sorted(row["image_key"] for row in rows if row["error_code"] is None) == left
    delete_rows(store, PREDICTIONS, live_files(store, PREDICTIONS, ENGINE, DATE)[-1], [0])
    assert digest_files(files_of_date(store, ENGINE, DATE)) != before, (
        "a plan of before is not continued"
    )


def test_deleted_rows_are_not_summarized_and_late_images_are_added(store: Lake) -> None:
    left = delete_some(store)
    commit_run(store, image_keys(4, first=20))
    assert keys_in(store) == sorted([*left, *image_keys(4, first=20)])
    found = run_query(store, "SELECT sum(num_images) AS n FROM class_summaries WHERE class_id = 1")
    assert found.to_pylist() == [{"n": len(left) + 4}]
    assert list(verify(store)) == []


def test_bringing_a_store_up_to_date_does_not_bring_deleted_rows_back(store: Lake) -> None:
    """A file is named again with other statistics, which would drop its deletion vector."""
    left = delete_some(store)
    ensure_tables(store)
    assert keys_in(store) == left


def test_a_file_with_deleted_rows_is_not_replaced_in_vain(store: Lake) -> None:
    """deltalake would take out the file as it was before the deletion, and so nothing."""
    delete_some(store)
    record = begin(store, image_keys(4, first=20))
    score_shards(store, record)
    files = merge(store, record)
    old = live_files(store, PREDICTIONS, ENGINE, DATE)
    before = keys_of(store, "predictions/")
    with pytest.raises(LakeError, match=r"deletion vectors \(1 in all, .*PURGE"):
        land(store, PREDICTIONS, record.run_id, files, replaced=old)
    assert keys_of(store, "predictions/") == before
    finish(store, record, files)


@pytest.mark.parametrize("feature", ["columnMapping", "typeWidening", "somethingNew"])
def test_a_feature_that_changes_how_files_are_read_is_named(store: Lake, feature: str) -> None:
    set_features(store, PREDICTIONS, [feature])
    with pytest.raises(LakeError, match=feature):
        run_query(store, "SELECT count(*) FROM predictions")
    with pytest.raises(LakeError, match=feature):
        all_live_files(store, PREDICTIONS)


@given(kept=st.lists(st.booleans(), max_size=40), start=st.integers(0, 50), num=st.integers(0, 50))
def test_rows_behind_a_vectors_end_are_kept(kept: list[bool], start: int, num: int) -> None:
    everything = [*kept, *[True] * 200]
    found = select(_packed(np.array(kept, bool)), start, num)
    assert found.tolist() == everything[start : start + num]
    assert pa.array(found).type == pa.bool_()
