"""What a commit asks of a table's log, by how many commits lie between two checkpoints.

A table in a folder gets some commits of one file each, every one by a process that begins without a
copy of the log. Listings, objects read and objects written are counted, as each would be a request
to S3. The rows of all files are different, as are their bounds in the log.

    python -m benchmarks.checkpoints [--files 250] [--commits 60] [--every 1,5,10,20,50,100]
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.machine import keep
from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, LakeObject, ReadRequest
from steel_batch.tables.commit import land
from steel_batch.tables.file_lists import DataFile
from steel_batch.tables.log_mirror import log_mirror
from steel_batch.tables.merge import write_file
from steel_batch.tables.table_log import CHECKPOINT_EVERY, ensure_tables
from tests.made_up_run import ENGINE, image_keys, made_up_row, rows_table

TABLE = layout.PREDICTIONS
FIRST = datetime.date(2020, 1, 1)
NUM_ROWS = 4


class CountingLake(Lake):
    """Counts what is asked of the log."""

    def __init__(self, folder: Path, process: int, counts: Counter[str]) -> None:
        # A process's copies are told apart by the endpoint, too, which a folder does not have.
        super().__init__(str(folder), endpoint_url=f"http://process-{process}")
        self._counts = counts

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        self._counts["listings"] += 1
        return super().list_after(prefix, after)

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        found = super().read_many(requests)
        for request, data in zip(requests, found, strict=True):
            if "_delta_log" in request.key:
                self._counts["reads"] += 1
                self._counts["bytes_read"] += 0 if isinstance(data, LakeError) else len(data)
        return found

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self._count_write(key, data)
        return super().put_if_absent(key, data)

    def write(self, key: str, data: bytes) -> None:
        self._count_write(key, data)
        super().write(key, data)

    def _count_write(self, key: str, data: bytes) -> None:
        if "_delta_log" in key:
            self._counts["writes"] += 1
            self._counts["bytes_written"] += len(data)


def file_of(store: Lake, number: int) -> tuple[str, DataFile]:
    """A run, and its file, which is written here."""
    date = str(FIRST + datetime.timedelta(days=number))
    run_id = layout.run_id(ENGINE, date, 1)
    rows = rows_table([made_up_row(f"{number}/{key}", run_id) for key in image_keys(NUM_ROWS)])
    target = layout.table_file(TABLE, ENGINE, date, run_id, 0)
    return run_id, write_file(store, rows.schema, [rows], merged=target, target=target)


def commit(store: Lake, number: int, every: int) -> None:
    """Commit a file, and write a checkpoint if it is time for one."""
    run_id, file = file_of(store, number)
    land(store, TABLE, run_id, [file])
    log_mirror(store, TABLE).checkpoint(store, every)


def measure(grown: Path, num_files: int, num_commits: int, every: int) -> dict[str, float]:
    """Averages per commit."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "store"
        shutil.copytree(grown, folder)
        counts: Counter[str] = Counter()
        for number in range(num_files, num_files + num_commits):
            commit(CountingLake(folder, number, counts), number, every)
    found = {name: round(num / num_commits, 1) for name, num in counts.items()}
    requests = sum(counts[name] for name in ("listings", "reads", "writes")) / num_commits
    return {"every": every, "requests": round(requests, 1), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=250)
    parser.add_argument("--commits", type=int, default=60)
    parser.add_argument("--every", default="1,5,10,20,50,100")
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as scratch:
        store = Lake(f"{scratch}/store")
        ensure_tables(store)
        for number in range(options.files):
            commit(store, number, CHECKPOINT_EVERY)
        for every in map(int, options.every.split(",")):
            num_commits = -(-options.commits // every) * every  # whole cycles
            measured.append(measure(Path(store.url), options.files, num_commits, every))
            print(json.dumps(measured[-1]), file=sys.stderr, flush=True)
    keep("checkpoints", {"files": options.files, "measured": measured})


if __name__ == "__main__":
    main()
