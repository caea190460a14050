#!/usr/bin/env bash
# delta-rs: a commit that removes files which a compaction has removed meanwhile is not a conflict.
#
# A writer reads which files are live, somebody else's OPTIMIZE replaces them by one, and the writer
# commits: these files out, a new one in. The Delta protocol calls two commits that delete the same
# file a conflict. With create_write_transaction the second one is committed, whether its table was
# opened before the compaction or after it: nothing is removed, the new rows are added, and the
# table has both the old rows and those that were to replace them. Who replaces files has to look
# whether each is live in the very version that the commit goes on.
#
# Seen on 2026-11-29 with deltalake 1.6.6, PyArrow 26.0.1, Python 3.11; 1, 2, 3, 4 were to be
# replaced by 10, 20, 30, 40:
#   opened before the compaction: committed, rows [1, 2, 3, 4, 10, 20, 30, 40]
#   opened after the compaction: committed, rows [1, 2, 3, 4, 10, 20, 30, 40]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deltalake==1.6.6 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

now = int(time.time() * 1000)
found = []
for opened in ("before", "after"):
    table = Path(sys.argv[1]) / opened
    for values in ([1, 2], [3, 4]):
        write_deltalake(table, pa.table({"x": values}), mode="append")
    early = DeltaTable(table)
    live = [Path(uri).name for uri in early.file_uris()]
    DeltaTable(table).optimize.compact()
    late = DeltaTable(table)
    pq.write_table(pa.table({"x": [10, 20, 30, 40]}), table / "new.parquet")
    size = (table / "new.parquet").stat().st_size
    actions = [
        AddAction("new.parquet", size, {}, now, data_change=True, stats="{}"),
        *(RemoveAction(name, data_change=True, deletion_timestamp=now) for name in live),
    ]
    writer = early if opened == "before" else late
    try:
        writer.create_write_transaction(actions, mode="append", schema=writer.schema())
        outcome = "committed"
    except DeltaError as error:
        outcome = type(error).__name__
    rows = sorted(DeltaTable(table).to_pyarrow_table()["x"].to_pylist())
    found.append((outcome, rows))
    print(f"opened {opened} the compaction: {outcome}, rows {rows}")
sys.exit(found != [("committed", [1, 2, 3, 4, 10, 20, 30, 40])] * 2)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
