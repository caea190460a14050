#!/usr/bin/env bash
# delta-rs: the values of a binary partition column come back as the text of their escapes.
#
# Delta's protocol writes a binary partition value as a text of \u escapes, one for each byte.
# delta-rs writes that and does not undo it: b"ab" is read as the twelve bytes of "\u0061\u0062",
# by to_pyarrow_table and by its own SQL. The rows stay apart, so counts are right and no value
# matches. The same column without partition_by is right: partition by a text, such as hex.
#
# Seen on 2026-11-30 with deltalake 1.6.6, PyArrow 26.0.1, Python 3.11; digests of two images:
#   written            b'ab', b'\x00\xff'
#   column             b'ab', b'\x00\xff'
#   partition          b'\\u0061\\u0062', b'\\u0000\\u00FF'
#   partition, SQL     b'\\u0061\\u0062', b'\\u0000\\u00FF'
#   rows with b'ab'    column 1, partition 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  deltalake==1.6.6 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

WRITTEN = [b"ab", b"\x00\xff"]
ESCAPED = [b"\\u0061\\u0062", b"\\u0000\\u00FF"]


def show(name, values):
    print(f"{name:18}", ", ".join(map(repr, values)))
    return values


def read(partition_by):
    where = f"{sys.argv[1]}/{'partition' if partition_by else 'column'}"
    images = pa.table({"digest": WRITTEN, "image": [1, 2]})
    write_deltalake(where, images, partition_by=partition_by)
    table = DeltaTable(where)
    plain = table.to_pyarrow_table().sort_by("image")
    ask = QueryBuilder().register("images", table).execute
    return plain, pa.table(ask("SELECT * FROM images ORDER BY image").read_all())


show("written", WRITTEN)
column, _ = read(None)
partition, by_sql = read(["digest"])
found = [
    show("column", column["digest"].to_pylist()),
    show("partition", partition["digest"].to_pylist()),
    show("partition, SQL", by_sql["digest"].to_pylist()),
]
numbers = [table["digest"].to_pylist().count(b"ab") for table in (column, partition)]
print(f"{'rows with ' + repr(b'ab'):18} column {numbers[0]}, partition {numbers[1]}")
sys.exit((found, numbers) != ([WRITTEN, ESCAPED, ESCAPED], [1, 0]))
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
