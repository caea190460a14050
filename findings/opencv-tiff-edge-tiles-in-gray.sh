#!/usr/bin/env bash
# OpenCV: of a 16-bit gray TIFF in tiles, the columns of the right edge are wrong in 8-bit gray.
#
# Tiles that the image's width does not fill are cut at the edge. cv2.imdecode with IMREAD_GRAYSCALE
# reads the rows of such a tile as if they were as long as the part that is kept: nearly every row
# comes out as pixels of another one. No warning. IMREAD_UNCHANGED, and IMREAD_GRAYSCALE with
# IMREAD_ANYDEPTH, are right on every pixel, and so is the same image in strips. A tile that is
# larger than the whole image (a 256x1600 strip in tiles of 128x256, say) gives noise nearly
# everywhere in the last tile column.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, tifffile 2025.5.10, NumPy 2.2.6,
# Python 3.11; 100x130 pixels whose level grows from row to row:
#   strips       gray as the high byte: True   unchanged: True
#   tiles 64x64  gray as the high byte: False  unchanged: True  wrong columns 128 to 129
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 tifffile==2025.5.10 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile

levels = np.repeat(np.arange(100, dtype=np.uint16)[:, None] * 655, 130, axis=1)
found = {}
for name, options in {"strips": {}, "tiles 64x64": {"tile": (64, 64)}}.items():
    file = io.BytesIO()
    tifffile.imwrite(file, levels, photometric="minisblack", **options)
    data = np.frombuffer(file.getvalue(), np.uint8)
    wrong = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) != levels >> 8
    whole = bool((cv2.imdecode(data, cv2.IMREAD_UNCHANGED) == levels).all())
    columns = np.flatnonzero(wrong.any(axis=0)).tolist()
    found[name] = (columns, whole)
    where = f"  wrong columns {columns[0]} to {columns[-1]}" if columns else ""
    print(f"{name:12} gray as the high byte: {not columns!s:5}  unchanged: {whole}{where}")
sys.exit(found != {"strips": ([], True), "tiles 64x64": ([128, 129], True)})
PY
"$folder/venv/bin/python" "$folder/show.py"
