#!/usr/bin/env bash
# PyArrow: a table without rows is written with a dictionary page for each column, that its footer places behind the data.
#
# A file of an empty table has one row group of no rows, and in it a dictionary page of no values
# for each column. There is no data page, so the footer states that it begins at byte 0, which is
# the magic of the file, and before the dictionary that it belongs to. A reader that takes the
# smaller of the two offsets for the column's begin reads the magic as a page header. Without
# dictionaries the row group has no bytes at all.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11: row groups, and of each column's first one
# its bytes, and where its dictionary and its data begin:
#   default               1 row group   image: 15 bytes, dictionary at 4, data at 0   n: 15 bytes, dictionary at 19, data at 0
#   use_dictionary=False  1 row group   image: 0 bytes, dictionary at None, data at 0   n: 0 bytes, dictionary at None, data at 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq

EMPTY = pa.table({"image": pa.array([], pa.binary()), "n": pa.array([], pa.int64())})
EXPECTED = {True: [(15, 4, 0), (15, 19, 0)], False: [(0, None, 0), (0, None, 0)]}


def found(use_dictionary):
    stream = io.BytesIO()
    pq.write_table(EMPTY, stream, use_dictionary=use_dictionary)
    footer = pq.ParquetFile(stream).metadata
    columns = [footer.row_group(0).column(i) for i in range(2)]
    return footer.num_row_groups, [
        (c.total_compressed_size, c.dictionary_page_offset, c.data_page_offset) for c in columns
    ]


as_seen = True
for name, use in (("default", True), ("use_dictionary=False", False)):
    num, columns = found(use)
    texts = [
        f"{column}: {size} bytes, dictionary at {dictionary}, data at {data}"
        for column, (size, dictionary, data) in zip(EMPTY.column_names, columns)
    ]
    print(f"{name:21}", f"{num} row group  ", "   ".join(texts))
    as_seen &= (num, columns) == (1, EXPECTED[use])
sys.exit(0 if as_seen else 1)
PY
"$folder/venv/bin/python" "$folder/show.py"
