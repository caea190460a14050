#!/usr/bin/env bash
# PyArrow: drop_null removes nothing from a run-end encoded column, and null_count says 0.
#
# A run-end encoded array has no bitmap of its own: its nulls are in its values. null_count is the
# number in the bitmap, so it is 0, and drop_null takes that for "there are none" and returns the
# array as it is. is_null and count know them, and so does to_pylist. Decode the column first.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, Python 3.11; the shifts of seven images:
#   plain: null_count 3, is_null 3, drop_null keeps day day night night
#   runs:  null_count 0, is_null 3, drop_null keeps day day None None None night night
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc

SHIFTS = ["day", "day", None, None, None, "night", "night"]
plain = pa.array(SHIFTS)
found = []
for name, column in (("plain", plain), ("runs", pc.run_end_encode(plain))):
    nulls = pc.is_null(column).to_pylist().count(True)
    kept = pc.drop_null(column).to_pylist()
    print(f"{name + ':':6} null_count {column.null_count}, is_null {nulls}, drop_null keeps", *kept)
    found.append((column.null_count, nulls, kept))
without = [shift for shift in SHIFTS if shift]
sys.exit(found != [(3, 3, without), (0, 3, SHIFTS)])
PY
"$folder/venv/bin/python" "$folder/show.py"
