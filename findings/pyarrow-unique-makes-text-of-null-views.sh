#!/usr/bin/env bash
# PyArrow: unique and value_counts make an empty text of null in a string_view column.
#
# Query engines hand out text as string_view: delta-rs's QueryBuilder does. unique and value_counts
# of such a column count the nulls right and then give "" for null, next to the "" of rows that
# really have it. In a report, images without a line become images of the line "", and its count
# appears twice. is_null, group_by and Parquet files are right, and so are string and large_string:
# cast first. binary_view has the same fault.
#
# Seen on 2026-11-30 with PyArrow 26.0.1, deltalake 1.6.6, Python 3.11; lines of five images:
#   string                 None 2, 'north' 2, '' 1
#   string_view            '' 2, 'north' 2, '' 1
#   QueryBuilder's answer  '' 2, 'north' 2, '' 1 (string_view)
#   group_by, string_view  None 2, 'north' 2, '' 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pyarrow==26.0.1 deltalake==1.6.6
cat > "$folder/show.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, QueryBuilder, write_deltalake

LINES = pa.array([None, "north", "", None, "north"])


def counts(column):
    return [(entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()]


def show(name, found, note=""):
    print(f"{name:22}", ", ".join(f"{line!r} {number}" for line, number in found), note)
    return found


where = sys.argv[1] + "/table"
write_deltalake(where, pa.table({"line": LINES}))
images = QueryBuilder().register("images", DeltaTable(where))
answer = pa.table(images.execute("SELECT line FROM images").read_all())["line"]
text = show("string", counts(LINES))
views = LINES.cast(pa.string_view())
wrong = show("string_view", counts(views))
asked = show("QueryBuilder's answer", counts(answer), f"({answer.type})")
groups = pa.table({"line": views}).group_by("line", use_threads=False).aggregate([([], "count_all")])
right = show("group_by, string_view", [tuple(group.values()) for group in groups.to_pylist()])
is_as_described = (
    text == right == [(None, 2), ("north", 2), ("", 1)]
    and wrong == [("", 2), ("north", 2), ("", 1)]
    and pc.unique(views).to_pylist() == ["", "north", ""]
    and sorted(asked) == sorted(wrong)
    and answer.null_count == 2
)
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder"
