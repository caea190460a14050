#!/usr/bin/env bash
# PyArrow: every image of a row group ends up in a Parquet dictionary, whatever dictionary_pagesize_limit says.
#
# By default, write_table makes dictionaries and gives them up at 1 MiB. The size is looked at after
# each 1,024 values, and by then all images of a usual row group are in it, although no two are
# equal; a limit of 1 kB changes nothing, and only write_batch_size does. The file is no larger. A
# reader copies each image into its dictionary and again into its column, so it allocates the row
# group twice (reading took four times as long for us). use_dictionary=False, or a list of the other
# columns, avoids it.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11: a row group of 64 values of 105,000 random
# bytes, 6,720,000 in all; size of its dictionary page, and most memory allocated while it is read
# with one thread, as multiples of the values:
#   default                             dictionary 6,720,277 bytes   read 2.0
#   dictionary_pagesize_limit=1000      dictionary 6,720,277 bytes   read 2.0
#   write_batch_size=1, the same limit  dictionary   105,022 bytes   read 1.4
#   use_dictionary=False                none                         read 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM, SIZE = 64, 105_000
WAYS = {
    "default": {},
    "dictionary_pagesize_limit=1000": {"dictionary_pagesize_limit": 1000},
    "write_batch_size=1, the same limit": {"dictionary_pagesize_limit": 1000, "write_batch_size": 1},
    "use_dictionary=False": {"use_dictionary": False},
}
EXPECTED = [(True, 2.0), (True, 2.0), (False, 1.4), (False, 1.0)]
rng = np.random.default_rng(0)
table = pa.table({"image": pa.array([rng.bytes(SIZE) for _ in range(NUM)])})
found = []
for name, options in WAYS.items():
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", **options)
    file = pa.BufferReader(sink.getvalue())
    column = pq.read_metadata(file).row_group(0).column(0)
    num_bytes = 0
    if column.has_dictionary_page:
        num_bytes = column.data_page_offset - column.dictionary_page_offset
    pool = pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    pq.ParquetFile(file, pre_buffer=False).read_row_group(0, use_threads=False)
    times = round(pool.max_memory() / (NUM * SIZE), 1)
    print(f"{name:35} dictionary {num_bytes:9,} bytes   read {times}")
    found.append((num_bytes > NUM * SIZE, times))
sys.exit(found != EXPECTED)
PY
"$folder/venv/bin/python" "$folder/show.py"
