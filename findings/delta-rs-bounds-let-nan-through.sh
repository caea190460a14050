#!/usr/bin/env bash
# delta-rs: in its Arrow dataset a row of NaN is "less than 4", and "greater than 0", and "at most 3".
#
# Statistics of a file leave NaN out, as the Delta protocol has it: of 1, NaN, 3 the bounds are 1
# and 3. DeltaTable.to_pyarrow_dataset gives them to Arrow as what holds for every row of the file.
# So Arrow takes a filter that the bounds fulfil for true and does not look at the rows, and NaN
# comes back. The same file without its log gives the right rows. DuckDB over the dataset passes its
# filter down and is wrong with it; a mean over such rows is NaN. Nulls are left out as they should.
#
# Seen on 2026-11-29 with deltalake 1.6.6, PyArrow 26.0.1, DuckDB 2.0.1, Python 3.11; 1, NaN, 3:
#   delta x < 4: [1.0, nan, 3.0]   file x < 4: [1.0, 3.0]
#   delta x > 0: [1.0, nan, 3.0]   file x > 0: [1.0, 3.0]
#   DuckDB over delta x < 4: [1.0, nan, 3.0]   over the file: [1.0, 3.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  deltalake==1.6.6 pyarrow==26.0.1 duckdb==2.0.1
cat > "$folder/show.py" <<'PY'
import sys

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake

write_deltalake(sys.argv[1], pa.table({"x": [1.0, float("nan"), 3.0]}))
table = DeltaTable(sys.argv[1])
delta, file = table.to_pyarrow_dataset(), ds.dataset(table.file_uris())
x = ds.field("x")
found = []
for name, condition in (("x < 4", x < 4), ("x > 0", x > 0)):
    rows = [source.to_table(filter=condition)["x"].to_pylist() for source in (delta, file)]
    found += map(str, rows)
    print(f"delta {name}: {rows[0]}   file {name}: {rows[1]}")
rows = [
    [value for (value,) in duckdb.sql(f"SELECT x FROM {source} WHERE x < 4").fetchall()]
    for source in ("delta", "file")
]
found += map(str, rows)
print(f"DuckDB over delta x < 4: {rows[0]}   over the file: {rows[1]}")
sys.exit(found != ["[1.0, nan, 3.0]", "[1.0, 3.0]"] * 3)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder/table"
