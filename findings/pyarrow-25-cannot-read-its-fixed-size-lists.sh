#!/usr/bin/env bash
# PyArrow before 26: it cannot read a Parquet file that it wrote, if a list of fixed size is null.
#
# Images, embeddings and boxes of one size are often columns of FixedSizeList. write_table takes a
# column in which one of them is null, and the file is right: DuckDB and PyArrow 26 read it. But
# PyArrow 25 refuses to read it back, and so does everything that reads with it. Without a null, the
# same column is read. A null struct around such a list has the same effect.
#
# Seen on 2026-11-29 with PyArrow 25.0.0 and 26.0.1, DuckDB 2.0.1, Python 3.11; [1, 2], null, [3, 4]:
#   PyArrow 25.0.0: ArrowInvalid: Expected all lists to be of size=2 but index 2 had size=0
#   DuckDB 2.0.1: [[1, 2], None, [3, 4]]
#   PyArrow 26.0.1: [[1, 2], None, [3, 4]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 25.0.0 26.0.1; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
    pyarrow==$version duckdb==2.0.1
done
cat > "$folder/write.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

lists = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))
pq.write_table(pa.table({"x": lists}), sys.argv[1])
PY
cat > "$folder/read.py" <<'PY'
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

is_old = pa.__version__.startswith("25.")
try:
    found = str(pq.read_table(sys.argv[1])["x"].to_pylist())
except pa.ArrowInvalid as error:
    found = f"ArrowInvalid: {error}"
print(f"PyArrow {pa.__version__}: {found}")
is_as_described = found.startswith("ArrowInvalid: Expected all lists") == is_old
if is_old:
    rows = duckdb.sql(f"SELECT x FROM '{sys.argv[1]}'").fetchall()
    values = [None if x is None else list(x) for (x,) in rows]
    print(f"DuckDB {duckdb.__version__}: {values}")
    is_as_described &= values == [[1, 2], None, [3, 4]]
sys.exit(not is_as_described)
PY
"$folder/25.0.0/bin/python" "$folder/write.py" "$folder/x.parquet"
"$folder/25.0.0/bin/python" "$folder/read.py" "$folder/x.parquet"
"$folder/26.0.1/bin/python" "$folder/read.py" "$folder/x.parquet"
