"""What a date of many short production lines costs: its file's bytes, footer, and CPU to write it.

The same number of rows on more and more lines, written in tables of 512 rows as merging does, and
one line read back; medians of the rounds. `--against` measures another checkout as well.

    git worktree add ../before 89263a3
    python -m benchmarks.row_groups --against ../before [--rows 100000] [--lines 1,8,100,1000,5000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.cli import ROOT
from benchmarks.machine import keep

_MEASURE: Final = """
import inspect, json, sys, tempfile, time
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from steel_batch import schema
from steel_batch.lake import Lake
from tests.made_up_run import image_keys, made_up_row, rows_table
try:
    from steel_batch.tables.merge import write_file
except ImportError:  # of 28 November 2026 and before
    from steel_batch.merge import write_file
num_rows, num_lines = int(sys.argv[1]), int(sys.argv[2])
bounds = "bounds" in inspect.signature(write_file).parameters
extra = {"bounds": ("image_key", "line")} if bounds else {}
pool = rows_table([made_up_row(key, "r") for key in image_keys(512)])
rows = pool.take(pa.array(np.arange(num_rows) % 512))
lines = np.sort([f"{number * num_lines // num_rows:05d}" for number in range(num_rows)])
keys = [f"line={line}/im{number:06d}.jpg" for number, line in enumerate(lines)]
for name, values in (("line", lines), ("image_key", keys), ("image_id", keys)):
    place = rows.schema.get_field_index(name)
    rows = rows.set_column(place, rows.schema.field(name), pa.array(values))
parts = [rows.slice(start, 512) for start in range(0, num_rows, 512)]
with tempfile.TemporaryDirectory() as folder:
    started = time.process_time()
    file = write_file(
        Lake(folder), schema.PREDICTIONS, parts, merged="merged", target="target", **extra
    )
    written = time.process_time()
    path = f"{folder}/merged"
    one = pq.read_table(path, filters=[("line", "=", "00000")], use_threads=False)
    read = time.process_time()
    footer = pq.read_metadata(path)
print(json.dumps({
    "bytes": file.bytes, "footer_bytes": footer.serialized_size,
    "row_groups": footer.num_row_groups, "write_cpu_seconds": written - started,
    "read_one_line_cpu_seconds": read - written, "rows_of_one_line": one.num_rows,
}))
"""


def measure(checkout: Path, num_rows: int, num_lines: int) -> dict[str, float]:
    """The figures of one file, as one checkout writes it."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(num_rows), str(num_lines)],
        check=True, stdout=subprocess.PIPE, cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--lines", default="1,8,100,1000,5000")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"ours": ROOT}
    if options.against is not None:
        checkouts["before"] = options.against.resolve()
    found = []
    for num_lines in map(int, options.lines.split(",")):
        rounds: dict[str, list[dict[str, float]]] = {side: [] for side in checkouts}
        for _ in range(options.rounds):
            for side, checkout in checkouts.items():
                rounds[side].append(measure(checkout, options.rows, num_lines))
        figures = {
            side: {name: round(statistics.median(each[name] for each in its), 3) for name in its[0]}
            for side, its in rounds.items()
        }
        found.append({"lines": num_lines, **figures})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    keep("row_groups", {"rows": options.rows, "rounds": options.rounds, "measured": found})


if __name__ == "__main__":
    main()
