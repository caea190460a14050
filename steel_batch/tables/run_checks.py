"""Checks that the tables contain what each run committed: transaction, images, summary.

A log can lose an entry on any store: another writer may replace it if the store does not decide
between two, and anybody may delete it. The other checks do not notice, as a table without an entry
is a valid table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from steel_batch import layout, schema
from steel_batch.database import load_stream, scratch_database
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import Run, RunRecord, RunResult
from steel_batch.tables.committed import known_images, read_file
from steel_batch.tables.file_checks import Problem, by_partition
from steel_batch.tables.mending import missing_tables
from steel_batch.tables.merge import load_files
from steel_batch.tables.summary import FIELDS, summarize
from steel_batch.tables.table_log import LiveFile, landed_runs

KEY = pa.schema([schema.PREDICTIONS.field("image_key")])
MEND = "`steel-batch backfill --recheck` over that date, or `score` of it, repairs this"


def check_counts(
    store: Lake, run_id: str, record: RunRecord, result: RunResult
) -> Iterator[Problem]:
    """Check that a run's numbers add up: planned = predicted + quarantined, in its files too."""
    planned, scored, quarantined = record.num_images, result.num_scored, result.num_quarantined
    merged = sum(file.num_rows for file in load_files(store, run_id, layout.MERGED) or ())
    # Its other quarantine files hold entries of earlier runs.
    places = [
        (file, layout.split_table_file(file.target))
        for file in load_files(store, run_id, layout.QUARANTINE) or ()
    ]
    set_aside = sum(file.num_rows for file, place in places if place and place[1] == 0)
    if planned != scored + quarantined or merged != scored or set_aside != quarantined:
        yield Problem(
            kind="miscounted",
            key=layout.run_file(run_id, "result.json"),
            message=f"planned {planned}, predicted {scored} ({merged} in files), "
            f"quarantined {quarantined} ({set_aside} in files)",
        )


def check_transactions(
    store: Lake, runs: Sequence[Run], unreadable: Collection[str]
) -> Iterator[Problem]:
    """Check that the logs contain what finished runs committed, or a later run scored it again.

    Args:
        store: The store.
        runs: Finished runs.
        unreadable: Tables with an unreadable log, which are skipped.
    """
    ids = [run.run_id for run in runs]
    found = {
        table: set(ids) if table in unreadable else landed_runs(store, table, ids)
        for table in layout.TABLES
    }
    for run_id in ids:
        lost = missing_tables(store, run_id, lambda table, run_id=run_id: run_id in found[table])  # type: ignore[misc]
        lost = [table for table in lost if table != layout.CLASS_SUMMARIES]  # checked by content
        if not lost:
            continue
        where = " and ".join(lost)
        key = layout.run_file(run_id, "result.json")
        try:
            num_missing, example = _without_row(store, run_id)
        except LakeError as error:
            yield Problem(
                kind="lost",
                key=key,
                message=f"it was committed, but the log of {where} does not contain it; its images "
                f"cannot be looked up: {error}",
            )
            continue
        if num_missing:
            yield Problem(
                kind="lost",
                key=key,
                message=f"it was committed, but the log of {where} does not contain it: "
                f"{num_missing} of its images have neither a row nor a quarantine entry, for "
                f"example {example}. "
                f"{MEND}",
            )


def _without_row(store: Lake, run_id: str) -> tuple[int, str | None]:
    """How many images of a run's plan are in no table, and one of them."""
    engine, date, _ = layout.split_run_id(run_id)

    def planned() -> Iterator[pa.RecordBatch]:
        for group in Plan(store, run_id):
            yield from group.select(["image_key"]).cast(KEY).to_batches()

    def known() -> Iterator[pa.RecordBatch]:
        for batch in known_images(store, engine, date):
            yield batch.select(["image_key"]).cast(KEY)

    with scratch_database() as con:
        load_stream(con, "planned", KEY, planned())
        load_stream(con, "known", KEY, known())
        num_missing, example = con.sql(
            "SELECT count(*), min(image_key) FROM planned ANTI JOIN known USING (image_key)"
        ).fetchall()[0]
    return int(num_missing), example


def check_quarantine(
    store: Lake, predictions: list[LiveFile], quarantine: list[LiveFile]
) -> Iterator[Problem]:
    """Check that no image has both a row and a quarantine entry."""
    rows, entries = by_partition(predictions), by_partition(quarantine)
    for engine, date in sorted(rows.keys() & entries.keys()):
        with scratch_database() as con:
            load_stream(con, "entries", KEY, _keys(store, entries[engine, date]))
            load_stream(con, "scored", KEY, _keys(store, rows[engine, date]))
            num_both, example = con.sql(
                "SELECT count(*), min(image_key) FROM entries SEMI JOIN scored USING (image_key)"
            ).fetchall()[0]
        if num_both:
            yield Problem(
                kind="duplicate",
                key=f"{layout.QUARANTINE}/{layout.partition(engine, date)}",
                message=f"{num_both} images have a row and a quarantine entry, for example "
                f"{example}",
            )


def _keys(store: Lake, files: Sequence[LiveFile]) -> Iterator[pa.RecordBatch]:
    for file in files:
        yield from read_file(store, file.key, KEY, kept=file.kept)


def check_summaries(
    store: Lake, predictions: list[LiveFile], summaries: list[LiveFile]
) -> Iterator[Problem]:
    """Check that each date with predictions has a matching summary."""
    rows, made = by_partition(predictions), by_partition(summaries)
    for (engine, date), files in rows.items():
        if not sum(file.num_rows for file in files):
            continue
        key = f"{layout.CLASS_SUMMARIES}/{layout.partition(engine, date)}"
        found = _read(store, made.get((engine, date), []), schema.CLASS_SUMMARIES)
        if not found.num_rows:
            message = f"the date has predictions but no summary. {MEND}"
            yield Problem(kind="lost", key=key, message=message)
            continue
        names = {row["class_id"]: row["class_name"] for row in found.to_pylist()}
        batches = (
            batch for file in files for batch in read_file(store, file.key, FIELDS, kept=file.kept)
        )
        expected = summarize(batches, [names[class_id] for class_id in sorted(names)], "")
        difference = _difference(found, expected)
        if difference is not None:
            message = f"its summary does not match its predictions: {difference}. {MEND}"
            yield Problem(kind="miscounted", key=key, message=message)


def _read(store: Lake, files: Sequence[LiveFile], fields: pa.Schema) -> pa.Table:
    batches = [
        batch for file in files for batch in read_file(store, file.key, fields, kept=file.kept)
    ]
    return pa.Table.from_batches(batches, schema=fields)


def _difference(found: pa.Table, expected: pa.Table) -> str | None:
    """The first count in which two summaries differ; None if they are equal."""
    counts = [
        field.name
        for field in expected.schema
        if pa.types.is_integer(field.type) and field.name != "class_id"
    ]
    ours, theirs = _counts(found, counts), _counts(expected, counts)
    for line, class_id in sorted(ours.keys() | theirs.keys(), key=str):
        one, other = ours.get((line, class_id)), theirs.get((line, class_id))
        if one != other:
            place = f"line {line}, class {class_id}"
            if one is None or other is None:
                return f"{place} is only in the {'predictions' if one is None else 'summary'}"
            name, a, b = next(
                (n, a, b) for n, a, b in zip(counts, one, other, strict=True) if a != b
            )
            return f"{place} has {name} {a}, expected {b}"
    return None


def _counts(
    summary: pa.Table, columns: Sequence[str]
) -> dict[tuple[str | None, int], tuple[int, ...]]:
    return {
        (row["line"], row["class_id"]): tuple(row[name] for name in columns)
        for row in summary.to_pylist()
    }
