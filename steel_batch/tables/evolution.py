"""Upgrades a table of an earlier build to this build: adds columns, corrects bounds.

Columns are only ever added, at the end, and are nullable: files of earlier builds lack them, and
every reader reads null there. A file with bounds for only some columns would be skipped by readers
that filter by another column (`tables.statistics`). So bounds are removed from the log before a
column is added, and for every file that has too few of them.

Each step is one commit, valid only for the version of the table that it was computed from. If two
writers do it at once, one succeeds, and a file that was removed meanwhile is not put back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction

from steel_batch import interrupt
from steel_batch.errors import LakeError, paragraph_of
from steel_batch.tables.deletion_vectors import kept_rows
from steel_batch.tables.statistics import are_complete, rows_only

log = logging.getLogger(__name__)

ATTEMPTS: Final = 8
PAUSE_SECONDS: Final = 0.2


def evolve(reopen: Callable[[], DeltaTable], fields: pa.Schema) -> bool:
    """Add the columns that a table lacks, and remove bounds by which readers miss rows.

    Args:
        reopen: Opens the table in its current version.
        fields: The table's schema in this build.

    Returns:
        Whether anything had to be done.

    Raises:
        LakeError: A column has another type, or the log cannot be written.
    """
    is_changed = False
    failures: list[Exception] = []
    while len(failures) < ATTEMPTS:
        interrupt.sleep(PAUSE_SECONDS * len(failures))
        opened = reopen()
        missing = missing_columns(opened, fields)
        files = bounded_files(opened) if missing else partly_bounded_files(opened)
        if not missing and not files.num_rows:
            return is_changed
        try:
            if files.num_rows:
                log.info("%s: removing the bounds of %d files", opened.table_uri, files.num_rows)
                put_statistics(opened, files, {})
            else:
                log.info("%s: adding columns %s", opened.table_uri, ", ".join(missing.names))
                opened.alter.add_columns(
                    Schema.from_arrow(missing).fields,
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
        except (DeltaError, OSError) as error:
            # Whatever its outcome, the log is read before anything is written again.
            failures.append(error)
        else:
            is_changed = True
    raise LakeError(
        f"the table {reopen().table_uri} was created by an earlier build, and its log cannot be "
        f"brought up to date: {paragraph_of(failures[-1])}. Run the same command again."
    ) from failures[-1]


def is_current(opened: DeltaTable, fields: pa.Schema) -> bool:
    """Whether `evolve` would find nothing to do, nor to refuse."""
    try:
        return not missing_columns(opened, fields) and not partly_bounded_files(opened).num_rows
    except LakeError:
        return False


def missing_columns(opened: DeltaTable, fields: pa.Schema) -> pa.Schema:
    """The columns of this build that a table lacks.

    Raises:
        LakeError: A column has another type, or a column that is never null is missing: it is not
            a table of steel-batch.
    """
    found = {field.name: field.type for field in opened.schema().fields}
    wanted = {field.name: field for field in Schema.from_arrow(fields).fields}
    for name, field in wanted.items():
        kind = found.get(name)
        if kind is None and not field.nullable:
            raise LakeError(
                f"the table {opened.table_uri} has no column {name}: it is not a table of "
                "steel-batch. Give another --store."
            )
        if isinstance(kind, PrimitiveType) and kind != field.type:
            raise LakeError(
                f"the column {name} of the table {opened.table_uri} is {kind.type}, but this build "
                f"of steel-batch writes {getattr(field.type, 'type', field.type)}. Use the build "
                "that wrote it, or another --store."
            )
    return pa.schema([field for field in fields if field.name not in found])


def bounded_files(opened: DeltaTable) -> pa.Table:
    """The files of a table that have bounds, except those that `put_statistics` cannot handle."""
    files = _files(opened)
    return files.filter(pc.or_(pc.is_valid(files["min"]), pc.is_valid(files["max"])))


def partly_bounded_files(opened: DeltaTable) -> pa.Table:
    """Those of them that have too few bounds: some readers miss rows there."""
    files = _files(opened)
    return files.filter(pc.invert(are_complete(files)))


def unbounded_files(opened: DeltaTable) -> pa.Table:
    """The files without bounds, except those that `put_statistics` cannot handle."""
    files = _files(opened)
    return files.filter(pc.and_(pc.is_null(files["min"]), pc.is_null(files["max"])))


def _files(opened: DeltaTable) -> pa.Table:
    files = pa.table(opened.get_add_actions(flatten=False))
    # Added again without its deletion vector, a file would get its deleted rows back.
    vectors = pa.array(list(kept_rows(opened)), pa.string())
    return files.filter(pc.invert(pc.is_in(files["path"], vectors)))


def put_statistics(
    opened: DeltaTable, files: pa.Table, statistics: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add files of a table to its log again, with other statistics and without a change of rows.

    Args:
        opened: The table. If it has a newer version by now, the commit fails.
        files: Their entries from `get_add_actions`.
        statistics: By path; the other files get only their number of rows.
    """
    actions = [
        AddAction(
            path=row["path"],
            size=row["size_bytes"],
            partition_values={name: str(value) for name, value in row["partition"].items()},
            modification_time=row["modification_time"],
            data_change=False,
            stats=json.dumps(statistics.get(row["path"], rows_only(row["num_records"]))),
        )
        for row in files.to_pylist()
    ]
    opened.create_write_transaction(
        actions,
        "append",
        pa.schema(opened.schema().to_arrow()),
        partition_by=opened.metadata().partition_columns,
        commit_properties=CommitProperties(max_commit_retries=0),
    )
