"""What readers of a table are told where its log cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.tables.query import run_query
from tests.made_up_run import commit_run, image_keys


def test_a_log_entry_that_is_gone_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    for day in (1, 2, 3):
        commit_run(store, image_keys(2), date=f"2026-10-{day:02d}")
    entry = "predictions/_delta_log/00000000000000000002.json"
    store.delete([entry])
    with pytest.raises(LakeError) as caught:
        run_query(store, "SELECT count(*) FROM predictions")
    assert str(caught.value) == (
        f"the table {store.uri('predictions')} cannot be read: its log lacks {store.uri(entry)}. "
        "Restore the entry from a backup, or from the bucket's versions."
    )
