#!/usr/bin/env bash
# delta-rs: where a log has minimum and maximum of some columns only, a filter on another column
# returns no rows of that file.
#
# The Delta protocol lets a writer leave columns out of a file's statistics; a reader then knows
# nothing of them and must read the file. DeltaTable.to_pyarrow_dataset, and with it
# to_pyarrow_table(filters=...), DuckDB over that dataset and Ray's read_delta().filter, drop the
# file instead, without a word. An empty minValues does the same. Statistics without any
# minValues are safe.
#
# Seen on 2026-11-28 with deltalake 1.6.6 and pyarrow 26.0.1, Python 3.11:
#   bounds of another column: 5 rows, with a filter that all of them pass 0
#   empty minValues:          5 rows, with a filter that all of them pass 0
#   no minValues:             5 rows, with a filter that all of them pass 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction

schema = pa.schema([("line", pa.string()), ("width", pa.int32())])
rows = pa.table({"line": ["1"] * 5, "width": [1600] * 5}, schema=schema)
cases = {
    "bounds of another column": {
        "minValues": {"line": "1"}, "maxValues": {"line": "1"}, "nullCount": {"line": 0}
    },
    "empty minValues": {"minValues": {}, "maxValues": {}, "nullCount": {}},
    "no minValues": {},
}
found = {}
for number, (name, statistics) in enumerate(cases.items()):
    path = f"{sys.argv[1]}/table{number}"
    DeltaTable.create(path, schema)
    pq.write_table(rows, f"{path}/a.parquet")
    stats = json.dumps({"numRecords": 5, **statistics})
    size = os.path.getsize(f"{path}/a.parquet")
    add = AddAction("a.parquet", size, {}, 0, True, stats)
    DeltaTable(path).create_write_transaction([add], "append", schema)
    table = DeltaTable(path)
    passed = table.to_pyarrow_table(filters=[("width", "=", 1600)]).num_rows
    found[name] = (table.to_pyarrow_table().num_rows, passed)
    print(f"{name}: {found[name][0]} rows, with a filter that all of them pass {passed}")
expected = {
    "bounds of another column": (5, 0), "empty minValues": (5, 0), "no minValues": (5, 5)
}
sys.exit(found != expected)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
