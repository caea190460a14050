"""Commits pretended runs to a store in a folder, one per date, by the real code of some build.

    python benchmarks/grow_store.py FOLDER FROM TO      # dates number FROM to TO - 1

It is run as a file, with PYTHONPATH set to the build, and uses what all builds since 28 November
2026 have. The first date is a whole run of `tests.made_up_run`. The others have its rows again: no
plan and no receipts, but their files are committed as those of any run.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import sys
from types import ModuleType

from steel_batch import layout
from steel_batch.lake import Lake
from tests.made_up_run import ENGINE, commit_run, image_keys

FIRST = datetime.date(2020, 1, 1)
NUM_IMAGES = 4
TABLES = ("predictions", "class_summaries")


def module(*names: str) -> ModuleType:
    """The first of some modules that this build has."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(names[-1])


lists = module("steel_batch.tables.file_lists", "steel_batch.tables.merge", "steel_batch.merge")
runs = module("steel_batch.runs.record", "steel_batch.runs")
commit = module("steel_batch.tables.commit", "steel_batch.commit")
logs = module("steel_batch.tables.table_log", "steel_batch.commit")


def run_of(number: int) -> tuple[str, str]:
    """A date and its run."""
    date = str(FIRST + datetime.timedelta(days=number))
    return date, layout.run_id(ENGINE, date, 1)


def commit_date(store: Lake, number: int) -> None:
    """Commit the rows of the first date as those of another one."""
    _, template = run_of(0)
    date, run_id = run_of(number)
    run = runs.read_run(store, template)
    runs.put_record(store, dataclasses.replace(run.record, run_id=run_id, date=date))
    for table in TABLES:
        (file,) = lists.load_files(store, template, table)
        target = layout.table_file(table, ENGINE, date, run_id, 0)
        files = [dataclasses.replace(file, merged=file.target, target=target)]
        lists.save_files(store, run_id, table, files)
        version = commit.land(store, table, run_id, files)
        if table == TABLES[0]:
            first_version = version
    if hasattr(logs, "write_checkpoints"):
        logs.write_checkpoints(store)
    if hasattr(logs, "leave_tails"):
        logs.leave_tails(store)
    result = dataclasses.replace(run.result, run_id=run_id, date=date, table_version=first_version)
    runs.put_result(store, result)


def main() -> None:
    folder, first, last = sys.argv[1:]
    store = Lake(folder)
    logs.all_live_files(store, "quarantine")  # as a run looks at all three
    for number in range(int(first), int(last)):
        if number:
            commit_date(store, number)
        else:
            commit_run(store, image_keys(NUM_IMAGES), date=run_of(0)[0])


if __name__ == "__main__":
    main()
