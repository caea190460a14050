"""A store in which `verify` finds nothing, what it finds in others, and files with other rows."""

from __future__ import annotations

import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.lake import Lake
from steel_batch.tables.commit import land
from steel_batch.tables.file_lists import save_files
from steel_batch.tables.merge import write_file
from steel_batch.tables.table_log import live_files
from steel_batch.tables.verify import verify
from tests.made_up_run import DATE, ENGINE, commit_run, image_keys

OTHER_DATE = "2026-11-22"


def found(store: Lake, **only: str) -> list[tuple[str, str]]:
    return [(problem.kind, problem.key) for problem in verify(store, **only)]


def fill(made: Lake) -> None:
    """Two dates; one in two runs and several files, with quarantine."""
    keys = image_keys(10)
    commit_run(made, keys, bad=keys[:2], merge_bytes=1)
    commit_run(made, image_keys(3, first=10))
    commit_run(made, image_keys(5), date=OTHER_DATE)


def first_file(store: Lake, table: str = layout.PREDICTIONS) -> str:
    return live_files(store, table, ENGINE, DATE)[0].key


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
