#!/usr/bin/env bash
# PyArrow: the first conversion of a Python list or scalar imports pandas, if it is installed.
#
# pa.array([1]), pa.scalar("x") and every pc.function(column, "literal") ask whether their input is
# a pandas object, and import pandas to ask. Nothing of pandas is used. A command that only sorts a
# column so pays for it in time and memory, and which of its lines does cannot be seen: columns from
# files, pa.nulls, and functions of columns alone do not import it.
#
# Seen on 2026-11-29 with PyArrow 26.0.1, pandas 3.1.1, NumPy 2.3.5, Python 3.11:
#   a column from a stream      pandas imported: False
#   a function of that column   pandas imported: False
#   pc.equal(column, "x")       pandas imported: True
#   pa.array([1])               pandas imported: True
#   pa.scalar("x")              pandas imported: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pyarrow==26.0.1 pandas==3.1.1 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import subprocess
import sys

SETUP = """
import io, sys
import pyarrow as pa
import pyarrow.compute as pc
stream = pa.BufferOutputStream()
schema = pa.schema([("name", pa.string())])
with pa.ipc.new_stream(stream, schema) as writer:
    writer.write_batch(pa.RecordBatch.from_arrays([pa.nulls(3, pa.string())], schema=schema))
column = pa.ipc.open_stream(stream.getvalue()).read_all()["name"]
"""
STEPS = {
    "a column from a stream": ("", False),
    "a function of that column": ("pc.is_null(column)", False),
    'pc.equal(column, "x")': ('pc.equal(column, "x")', True),
    "pa.array([1])": ("pa.array([1])", True),
    'pa.scalar("x")': ('pa.scalar("x")', True),
}
is_as_described = True
for name, (step, expected) in STEPS.items():
    code = f"{SETUP}\n{step}\nprint('pandas' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    found = said.stdout.strip() == b"True"
    print(f"{name:27} pandas imported: {found}")
    is_as_described &= found == expected
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py"
