#!/usr/bin/env bash
# Ray Data: map_batches changes 64-bit ids where a block has a null, even if it changes nothing.
#
# Batches are NumPy arrays unless asked otherwise, and NumPy has no null for integers: a column with
# a null becomes float64, and NaN stands for null. That is written back as the column, as doubles:
# ids beyond 2 ** 53 are rounded to other ids, and rows that had no id count as if they had one.
# Blocks without a null keep int64, so the type depends on the rows that happened to be together,
# and a union of both kinds is read as double. batch_format="pyarrow" keeps column and nulls.
#
# Seen on 2026-11-30 with ray 2.60.0, NumPy 2.4.6, PyArrow 26.0.1, Python 3.11; ids of two images
# through map_batches(lambda batch: batch):
#   no null  default int64  9007199254740993 7
#   a null   default double 9007199254740992.0 nan (0 null)
#   a null   pyarrow int64  9007199254740993 None (1 null)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' numpy==2.4.6 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
BIG = 2**53 + 1


def passed_through(ids, **options):
    images = pa.table({"id": pa.array(ids, pa.int64())})
    mapped = ray.data.from_arrow(images).map_batches(lambda batch: batch, **options)
    return ray.get(mapped.to_arrow_refs()[0])["id"]


found = []
for name, ids, options in (
    ("no null  default", [BIG, 7], {}),
    ("a null   default", [BIG, None], {}),
    ("a null   pyarrow", [BIG, None], {"batch_format": "pyarrow"}),
):
    column = passed_through(ids, **options)
    values = [str(value) for value in column.to_pylist()]
    nulls = f" ({column.null_count} null)" if None in ids else ""
    print(f"{name} {column.type!s:6} {' '.join(values)}{nulls}", flush=True)
    found.append((str(column.type), values, column.null_count))
expected = [
    ("int64", [str(BIG), "7"], 0),
    ("double", [str(float(BIG)), "nan"], 0),
    ("int64", [str(BIG), "None"], 1),
]
sys.exit(found != expected)
PY
"$folder/venv/bin/python" "$folder/show.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
