#!/usr/bin/env bash
# PyArrow: Table.cast of a slice shifts a run-end encoded column, though it keeps its type.
#
# Run-end encoded columns cannot be cast, except to their own type, as is done for each column that
# a new schema leaves alone. That cast forgets where the slice begins: the column gets the slice's
# length and starts at the first row of the whole one, next to columns that are right. A column of
# several chunks starts over at each chunk that is a slice. Slices alone, IPC and run_end_decode are
# right: decode before the cast.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11; images 4 to 7 with the gauge of their coils,
# where only the images' type is cast:
#   slice         4:8 5:8 6:9 7:9
#   cast          4:7 5:7 6:7 7:8
#   two chunks    1:7 2:7 3:7 4:7 5:7 6:7 7:8
#   decode, cast  4:8 5:8 6:9 7:9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc

GAUGES = pa.array([7, 7, 7, 8, 8, 9, 9])
runs = pc.run_end_encode(GAUGES)
coils = pa.table({"image": range(1, 8), "gauge": runs})
plain = pa.table({"image": range(1, 8), "gauge": GAUGES})
narrow = pa.schema([("image", pa.int16()), ("gauge", runs.type)])
found = {
    "slice": coils.slice(3),
    "cast": coils.slice(3).cast(narrow),
    "two chunks": pa.concat_tables([coils.slice(0, 3), coils.slice(3)]).cast(narrow),
    "decode, cast": plain.slice(3).cast(pa.schema([("image", pa.int16()), ("gauge", pa.int64())])),
}
gauges = {}
for name, table in found.items():
    rows = table.to_pylist()
    gauges[name] = [row["gauge"] for row in rows]
    print(f"{name:13}", *(f"{row['image']}:{row['gauge']}" for row in rows))
right, wrong = [8, 8, 9, 9], [7, 7, 7, 8]
sys.exit(list(gauges.values()) != [right, wrong, [7, 7, 7, *wrong], right])
PY
"$folder/venv/bin/python" "$folder/show.py"
