#!/usr/bin/env bash
# delta-rs: an empty text in a partition column is text for its query engine, and null for Arrow.
#
# The Delta protocol says that an empty partition value is null. write_deltalake writes "" for an
# empty text all the same, and null for a null. QueryBuilder and Polars then read "" and null,
# DeltaTable.to_pyarrow_table reads null twice. So the same filter on one table gives one row or
# none, and who counts lines counts two or three. In a column that is no partition all agree.
#
# Seen on 2026-11-29 with deltalake 1.6.6, PyArrow 26.0.1, Polars 2.1.0, Python 3.11; '1', '', null:
#   to_pyarrow_table: [('1', 1), (None, 2), (None, 3)]  where line = '': 0
#   QueryBuilder:     [('1', 1), ('', 2), (None, 3)]  where line = '': 1
#   Polars:           [('1', 1), ('', 2), (None, 3)]  where line = '': 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  deltalake==1.6.6 pyarrow==26.0.1 polars==2.1.0
cat > "$folder/show.py" <<'PY'
import sys

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

rows = pa.table({"line": pa.array(["1", "", None], pa.string()), "x": [1, 2, 3]})
write_deltalake(sys.argv[1], rows, partition_by=["line"])
table = DeltaTable(sys.argv[1])


def query(condition):
    result = QueryBuilder().register("t", table).execute(f"SELECT line, x FROM t {condition}")
    return pa.table(result).to_pylist()


found = {
    "to_pyarrow_table": (
        table.to_pyarrow_table().to_pylist(),
        table.to_pyarrow_table(filters=[("line", "=", "")]).num_rows,
    ),
    "QueryBuilder": (query(""), len(query("WHERE line = ''"))),
    "Polars": (
        pl.read_delta(sys.argv[1]).to_dicts(),
        pl.scan_delta(sys.argv[1]).filter(pl.col("line") == "").collect().height,
    ),
}
expected = {"to_pyarrow_table": (None, 0), "QueryBuilder": ("", 1), "Polars": ("", 1)}
is_as_described = True
for name, (read, num) in found.items():
    values = sorted(((row["line"], row["x"]) for row in read), key=lambda row: row[1])
    print(f"{name + ':':17} {values}  where line = '': {num}")
    is_as_described &= (values[1][0], num) == expected[name]
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder/table"
