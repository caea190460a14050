#!/usr/bin/env bash
# Ray Data: the driver holds statistics of every block of a stream until the stream ends.
#
# A dataset that is read as a stream is said to need memory only for the blocks on their way. But
# for each block that leaves an operator, the driver keeps a record of its rows, bytes, times and
# node, about 1.2 kB, until the last block has been read: a summary is made of them then. They are
# kept as well where every setting of summaries, logs and progress is off, after the block itself
# was read and freed. A million blocks that pass two operators take over 2 GB of the driver.
#
# Seen on 2026-11-30 with Ray 2.60.0 and PyArrow 26.0.1, Python 3.11: records in the driver while a
# dataset of 1,500 blocks and two operators is read, after so many blocks (the first two counts
# vary by some):
#   500 read   1018 held
#   1000 read  2020 held
#   1500 read  3000 held
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' pyarrow==26.0.1 numpy==2.2.6 pandas==2.3.3
cat > "$folder/show.py" <<'PY'
import gc
import sys
import time

import ray
import ray.data
from ray.data.block import BlockStats

NUM_BLOCKS, EVERY = 1500, 500

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False
context.enable_auto_log_stats = False
context.verbose_stats_logs = False
context.enable_stats_summary_collection = False
dataset = ray.data.range(NUM_BLOCKS, override_num_blocks=NUM_BLOCKS).map_batches(
    lambda batch: batch, compute=ray.data.TaskPoolStrategy(size=2)
)
found = []
for number, _ in enumerate(dataset.iter_batches(batch_size=None, prefetch_batches=0), 1):
    if number % EVERY == 0:
        time.sleep(0.2)
        gc.collect()
        held = sum(type(thing) is BlockStats for thing in gc.get_objects())
        found.append((number, held))
        print(f"{f'{number} read':10} {held} held")
sys.exit(0 if len(found) == 3 and all(held >= 2 * number for number, held in found) else 1)
PY
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
