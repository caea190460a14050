"""Each column is described, and nothing else is."""

from __future__ import annotations

import pytest

from steel_batch import layout
from steel_batch.tables.columns import COLUMNS
from steel_batch.tables.table_log import SCHEMAS


@pytest.mark.parametrize("table", layout.TABLES)
def test_each_column_of_a_table_has_its_meaning(table: str) -> None:
    assert set(COLUMNS[table]) == set(SCHEMAS[table].names)
    assert all(column.meaning for column in COLUMNS[table].values())
