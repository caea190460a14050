#!/usr/bin/env bash
# delta-rs: an append casts to the table's types, and cuts fractions off without a word.
#
# A writer of Delta tables is known to refuse what does not fit the schema. write_deltalake casts,
# and fails only where a value has no counterpart at all: "n/a", NaN or 2 ** 40 for a 32-bit column.
# Everything else is changed: 2.7 becomes 2, -2.7 becomes -2, a double beyond float32 becomes
# infinity, 7 becomes true, a list becomes its text. Fields of structs and elements of lists too.
# The mode ("append", "overwrite") and schema_mode="merge", which widens types where it can, make no
# difference. A job whose areas became fractions loses them as long as the old column stands.
#
# Seen on 2026-11-30 with deltalake 1.6.6, PyArrow 26.0.1, Python 3.11; appended, then read:
#   2.7, -2.7 to int32         [2, -2]
#   2.7 to int32, merge        [2]
#   {'area': 2.7} to a struct  [{'area': 2}]
#   1e300 to float32           [inf]
#   7 to bool                  [True]
#   [1, 2] to string           ['[1, 2]']
#   "n/a" to int32             refused
#   NaN to int32               refused
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  deltalake==1.6.6 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

INT = pa.int32()
AREA = pa.struct([("area", INT)])
TRIED = {
    "2.7, -2.7 to int32": (INT, [2.7, -2.7], None, [2, -2]),
    "2.7 to int32, merge": (INT, [2.7], "merge", [2]),
    "{'area': 2.7} to a struct": (AREA, [{"area": 2.7}], None, [{"area": 2}]),
    "1e300 to float32": (pa.float32(), [1e300], None, [float("inf")]),
    "7 to bool": (pa.bool_(), [7], None, [True]),
    "[1, 2] to string": (pa.string(), [[1, 2]], None, ["[1, 2]"]),
    '"n/a" to int32': (INT, ["n/a"], None, "refused"),
    "NaN to int32": (INT, [float("nan")], None, "refused"),
}
is_as_described = True
for i, (name, (kind, values, schema_mode, expected)) in enumerate(TRIED.items()):
    where = f"{sys.argv[1]}/table{i}"
    write_deltalake(where, pa.table({"value": pa.array([], kind)}))
    try:
        write_deltalake(where, pa.table({"value": values}), mode="append", schema_mode=schema_mode)
        found = DeltaTable(where).to_pyarrow_table()["value"].to_pylist()
    except Exception as error:
        found = "refused" if "Cast error" in str(error) else repr(error)
    print(f"{name:26} {found}")
    is_as_described &= found == expected
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
