#!/usr/bin/env bash
# PyArrow: the memoryview of compressed bytes has the length of the memory behind them.
#
# pa.compress and Codec.compress allocate for the worst case and shrink the buffer to what came out.
# Its view keeps both: nbytes is what came out, shape and len() are what was allocated. As long as
# the view is used whole, all is well: bytes(view) and file.write(view) take nbytes. A slice, as in
# a loop that writes in pieces, takes the shape: view[:] has the whole allocation, with whatever was
# in that memory behind the compressed bytes. Nothing is raised. The buffer itself and to_pybytes()
# are right, so pass those on, or slice the buffer.
#
# Seen on 2026-11-29 with PyArrow 26.0.1, NumPy 2.3.5, Python 3.11, x86-64 Linux; 100,000 equal
# bytes with LZ4, lengths of:
#   buffer 431, nbytes 431, bytes(view) 431, len(view) 100031, view[:] 100031, NumPy 100031
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 numpy==2.3.5
found=$("$folder/venv/bin/python" - <<'PY'
import numpy as np
import pyarrow as pa

packed = pa.compress(bytes(100_000), codec="lz4")
view = memoryview(packed)
lengths = {
    "buffer": packed.size,
    "nbytes": view.nbytes,
    "bytes(view)": len(bytes(view)),
    "len(view)": len(view),
    "view[:]": view[:].nbytes,
    "NumPy": np.asarray(view).size,
}
print(", ".join(f"{name} {length}" for name, length in lengths.items()))
PY
)
echo "$found"
[ "$found" = "buffer 431, nbytes 431, bytes(view) 431, len(view) 100031, view[:] 100031, NumPy 100031" ] ||
  { echo changed; exit 1; }
