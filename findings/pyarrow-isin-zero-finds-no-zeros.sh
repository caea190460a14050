#!/usr/bin/env bash
# PyArrow: in a Parquet row group of zeros only, isin([0.0]) finds no zero; == 0.0 finds them all.
#
# Parquet has a writer state zeros as a range from -0.0 to 0.0, whatever their signs. Where a group
# has no null, Arrow's dataset takes bounds that are equal for a constant, here -0.0, and puts it
# into the filter. Equality holds for both zeros, isin compares by sign: it is false for the whole
# group, which is not read. A zero next to another value is found, so the same filter is right in
# one group and wrong in the next, and isin([0.0, 1.0]) loses the same rows. read_table(filters=...)
# and DeltaTable.to_pyarrow_table with "in" do the same. Columns in memory and files without
# statistics are right. Ask for isin([0.0, -0.0]). It is issue 46183 of apache/arrow.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, deltalake 1.6.6, DuckDB 2.0.1, Python 3.11; zeros found in
# row groups of three:
#   0 0 0        == 3  isin 0  read_table 0  Delta 0  DuckDB 3  isin with -0.0 3
#   0 0 1        == 2  isin 2  read_table 2  Delta 2  DuckDB 2  isin with -0.0 2
#   0 0 0 0 1 0  == 5  isin 2  read_table 2  Delta 2  DuckDB 5  isin with -0.0 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pyarrow==26.0.1 duckdb==2.0.1 deltalake==1.6.6
cat > "$folder/show.py" <<'PY'
import sys

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

FILES = {
    "0 0 0": ([0.0, 0.0, 0.0], [3, 0, 0, 0, 3, 3]),
    "0 0 1": ([0.0, 0.0, 1.0], [2, 2, 2, 2, 2, 2]),
    "0 0 0 0 1 0": ([0.0, 0.0, 0.0, 0.0, 1.0, 0.0], [5, 2, 2, 2, 5, 5]),
}
WAYS = ("==", "isin", "read_table", "Delta", "DuckDB", "isin with -0.0")
score = ds.field("score")
is_as_described = True
for i, (name, (scores, expected)) in enumerate(FILES.items()):
    table = pa.table({"score": pa.array(scores, pa.float64())})
    path, delta = f"{sys.argv[1]}/{i}.parquet", f"{sys.argv[1]}/{i}"
    pq.write_table(table, path, row_group_size=3)
    for first in range(0, len(scores), 3):
        write_deltalake(delta, table.slice(first, 3), mode="append")
    dataset = ds.dataset(path)
    is_zero = [("score", "in", [0.0])]
    found = [
        dataset.to_table(filter=score == 0.0).num_rows,
        dataset.to_table(filter=score.isin([0.0])).num_rows,
        pq.read_table(path, filters=is_zero).num_rows,
        DeltaTable(delta).to_pyarrow_table(filters=is_zero).num_rows,
        len(duckdb.sql(f"FROM '{path}' WHERE score IN (0.0)").fetchall()),
        dataset.to_table(filter=score.isin([0.0, -0.0])).num_rows,
    ]
    print(f"{name:11}", *(f"{way} {count}" for way, count in zip(WAYS, found)), sep="  ")
    is_as_described &= found == expected
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
