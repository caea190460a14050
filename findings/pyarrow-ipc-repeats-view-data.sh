#!/usr/bin/env bash
# PyArrow: each IPC batch of a string_view or list_view column holds the data of the whole column.
#
# The IPC writer cuts the buffers of string and list to the rows of a batch. For string_view,
# binary_view and list_view it cuts the views only, and writes the data behind them whole each time:
# one row is as long as the table, and a table in n batches (max_chunksize, a batch per message) is
# n times as long. Rows and validation are right, so only sizes show it. nbytes of such a slice of
# string_view counts the whole, too. Such columns need not be of one's own making: delta-rs's
# QueryBuilder returns string_view. Cast views to string before they are written, or slice by slice.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11; 1,000 rows of 60 characters or 8 integers,
# bytes of a stream of the first row, of all rows in one batch, in 10 and in 100:
#   string       first row     360  1 batch  64296  10 batches   65952  100 batches   84888
#   string_view  first row   60344  1 batch  76328  10 batches  618128  100 batches 6036128
#   list         first row     456  1 batch  68392  10 batches   70192  100 batches   88192
#   list_view    first row   64416  1 batch  72400  10 batches  259872  100 batches 1724352
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa

ROWS = 1000
TEXTS = [f"{i:06d}" * 10 for i in range(ROWS)]
LISTS = [[i] * 8 for i in range(ROWS)]
COLUMNS = {
    "string": (pa.array(TEXTS, pa.string()), False),
    "string_view": (pa.array(TEXTS, pa.string_view()), True),
    "list": (pa.array(LISTS, pa.list_(pa.int64())), False),
    "list_view": (pa.array(LISTS, pa.list_view(pa.int64())), True),
}


def stream_bytes(table, rows_per_batch):
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    written = stream.getvalue()
    assert pa.ipc.open_stream(written).read_all().equals(table)
    return written.size


is_as_described = True
for name, (column, is_repeated) in COLUMNS.items():
    table = pa.table({"column": column})
    first = stream_bytes(table.slice(0, 1), ROWS)
    one, ten, hundred = (stream_bytes(table, ROWS // n) for n in (1, 10, 100))
    print(
        f"{name:12} first row {first:7}  1 batch {one:6}  10 batches {ten:7}  "
        f"100 batches {hundred:7}"
    )
    # A row is a thousandth of the table; a hundred batches add headers, less than half of it.
    is_as_described &= (first > one / 2) == is_repeated
    is_as_described &= (first < one / 100) != is_repeated
    is_as_described &= (hundred > 10 * one) == is_repeated
    is_as_described &= (hundred < 1.5 * one) != is_repeated
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py"
