#!/usr/bin/env bash
# Ray Data: what a generator in map_batches yields stays in its task until 128 MiB are together.
#
# A function that yields is said to stream its output. But each task collects what is yielded, and
# hands out a block only once it is larger than target_max_block_size, or when the function ends.
# So a row that is yielded before a pause arrives after it, although the consumer has nothing else
# to do. With a target of one byte, the same row arrives at once.
#
# Seen on 2026-11-30 with Ray 2.60.0 and PyArrow 26.0.1, Python 3.11: a function yields a row,
# sleeps for 8 s, and yields another; how long after it was yielded each row arrived, in seconds:
#   default                  8 0
#   target_max_block_size=1  0 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' pyarrow==26.0.1 numpy==2.2.6 pandas==2.3.3
cat > "$folder/show.py" <<'PY'
import sys
import time

import ray
import ray.data

PAUSE = 8


def rows(batch):
    yield {"yielded": [time.time()]}
    time.sleep(PAUSE)
    yield {"yielded": [time.time()]}


def delays():
    dataset = ray.data.range(1).map_batches(rows, batch_size=1)
    return [
        time.time() - yielded
        for block in dataset.iter_batches(batch_size=None, prefetch_batches=0)
        for yielded in block["yielded"]
    ]


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
usual = delays()
context.target_max_block_size = 1
small = delays()
for name, found in (("default", usual), ("target_max_block_size=1", small)):
    print(f"{name:24}", *(f"{seconds:.0f}" for seconds in found))
as_seen = len(usual) == len(small) == 2 and usual[0] > PAUSE - 1 and small[0] < PAUSE / 2
sys.exit(0 if as_seen else 1)
PY
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
