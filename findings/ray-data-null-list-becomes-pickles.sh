#!/usr/bin/env bash
# Ray Data: one null makes pickles of a list column, and write_parquet writes them.
#
# Lists pass through map_batches as an object array and come back as tensors, unless one is null:
# then each value is pickled, the others too, without a warning. In the dataset the rows look as
# before. In the Parquet file the column is binary, so DuckDB and other readers see bytes of Python
# pickles where defect runs were, and each file's schema depends on whether it has a clean image.
# batch_format="pyarrow" keeps the lists.
#
# Seen on 2026-11-30 with ray 2.60.0, NumPy 2.4.6, PyArrow 26.0.1, Python 3.11; runs of two images
# through map_batches(lambda batch: batch) and write_parquet, as DuckDB 2.0.1 reads them:
#   no null          BIGINT[]: [3, 4] [9, 2]
#   a null           BLOB: 136 bytes of pickle, 4 bytes of pickle
#   a null, pyarrow  BIGINT[]: [3, 4] None
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' numpy==2.4.6 pyarrow==26.0.1 duckdb==2.0.1
cat > "$folder/show.py" <<'PY'
import sys

import duckdb
import pyarrow as pa
import ray

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
RUNS = pa.list_(pa.int64())


def readers_view(name, runs, **options):
    images = pa.table({"runs": pa.array(runs, RUNS)})
    mapped = ray.data.from_arrow(images).map_batches(lambda batch: batch, **options)
    where = f"{sys.argv[1]}/{name}"
    mapped.write_parquet(where)
    rows = duckdb.sql(f"SELECT runs FROM '{where}/*.parquet'")
    values = [row[0] for row in rows.fetchall()]
    shown = " ".join(map(str, values))
    if all(isinstance(value, bytes) and value[0] == 0x80 and value[-1:] == b"." for value in values):
        shown = ", ".join(f"{len(value)} bytes of pickle" for value in values)
    print(f"{name:16} {rows.types[0]}: {shown}", flush=True)
    return str(rows.types[0]), values


full = readers_view("no null", [[3, 4], [9, 2]])
pickled = readers_view("a null", [[3, 4], None])
arrow = readers_view("a null, pyarrow", [[3, 4], None], batch_format="pyarrow")
is_as_described = (
    full == ("BIGINT[]", [[3, 4], [9, 2]])
    and pickled[0] == "BLOB"
    and arrow == ("BIGINT[]", [[3, 4], None])
)
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
