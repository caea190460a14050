"""Fences: a writer that lost the lock unnoticed does not land, and the next holder does."""

from __future__ import annotations

import pytest

from steel_batch import layout
from steel_batch.errors import LockHeldError
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.fence import fence
from steel_batch.tables.table_log import landed
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys
from tests.tables.merged_run import everything, image_keys_in, ready

PREDICTIONS = layout.PREDICTIONS


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
