"""Sweeps: what runs left of a date is deleted, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from steel_batch import layout
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.sweep import sweep
from steel_batch.tables.table_log import landed, live_files
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys, keys_of
from tests.tables.merged_run import image_keys_in, ready, rewrite_table, swept

PREDICTIONS = layout.PREDICTIONS


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
