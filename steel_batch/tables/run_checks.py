"""Checks that the tables contain what each run committed, and that each run's numbers add up.

A log can lose an entry on any store: another writer may replace it if the store does not decide
between two, and anybody may delete it. The other checks do not notice, as a table without an entry
is a valid table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from steel_batch import layout, schema
from steel_batch.database import scratch_database
from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.runs.partitions import Partitions
from steel_batch.runs.plan import Plan
from steel_batch.runs.record import Run
from steel_batch.tables.committed import files_of_date, known_images
from steel_batch.tables.content_checks import MEND
from steel_batch.tables.file_checks import Problem
from steel_batch.tables.file_lists import RunLists
from steel_batch.tables.mending import lost_runs

KEY = pa.schema([schema.PREDICTIONS.field("image_key")])


def check_counts(runs: Sequence[Run], lists: RunLists) -> Iterator[Problem]:
    """Check that runs' numbers add up: planned = predicted + quarantined, in their files too."""
    for run in runs:
        if run.record is None or run.result is None:
            continue
        planned, scored = run.record.num_images, run.result.num_scored
        quarantined = run.result.num_quarantined
        merged = sum(file.num_rows for file in lists[run.run_id, layout.MERGED] or ())
        # Its other quarantine files hold entries of earlier runs.
        entries = lists[run.run_id, layout.QUARANTINE] or ()
        places = [(file, layout.split_table_file(file.target)) for file in entries]
        set_aside = sum(file.num_rows for file, place in places if place and place[1] == 0)
        if planned != scored + quarantined or merged != scored or set_aside != quarantined:
            yield Problem(
                kind="miscounted",
                key=layout.run_file(run.run_id, "result.json"),
                message=f"planned {planned}, predicted {scored} ({merged} in files), "
                f"quarantined {quarantined} ({set_aside} in files)",
            )


def check_transactions(
    store: Lake, runs: Sequence[Run], lists: RunLists, live: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    """Check that the logs contain what finished runs committed, or a later run scored it again.

    Args:
        store: The store.
        runs: Finished runs.
        lists: Their files.
        live: The keys that each readable log lists.
    """
    lost = {
        table: lost_runs(store, table, [run.run_id for run in runs], lists, keys)
        for table, keys in live.items()
        if table != layout.CLASS_SUMMARIES  # checked by content
    }
    for run in runs:
        run_id = run.run_id
        tables = [table for table, ids in lost.items() if run_id in ids]
        if not tables:
            continue
        where = " and ".join(tables)
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
        for batch in known_images(store, files_of_date(store, engine, date)):
            yield batch.select(["image_key"]).cast(KEY)

    tables = {"planned": (KEY, "image_key"), "known": (KEY, "image_key")}
    num_missing, example = 0, None
    with scratch_database() as con, Partitions(con, tables) as keys:
        for batch in planned():
            keys.add("planned", batch)
        for batch in known():
            keys.add("known", batch)
        for group in keys.groups():
            wanted = group["planned"]["image_key"]
            missing = wanted.filter(
                pc.invert(pc.is_in(wanted, value_set=group["known"]["image_key"]))
            )
            num_missing += len(missing)
            first = pc.min(missing).as_py()
            example = first if example is None else min(example, first or example)
    return num_missing, example
