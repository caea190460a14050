#!/usr/bin/env bash
# TIFF: with PackBits and a predictor, tifffile writes what OpenCV and Pillow read as other pixels.
#
# A predictor stores each sample as its difference to the one on its left. libtiff applies the tag
# for LZW, Deflate, LZMA and Zstandard only, and ignores it for PackBits; tifffile applies it there
# too, when it writes and when it reads. So a file that tifffile wrote comes back whole in tifffile,
# and as an image of differences, nearly black where the steel is even, in cv2.imdecode and Pillow.
# None of them warns. With Deflate all three agree.
#
# Seen on 2026-11-29 with tifffile 2025.5.10, imagecodecs 2025.3.30, opencv-python-headless
# 5.0.0.93, Pillow 12.0.0, NumPy 2.2.6, Python 3.11; greatest difference of a gray level, of 255:
#   zlib      tifffile 0  OpenCV 0  Pillow 0
#   packbits  tifffile 0  OpenCV 199  Pillow 199
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tifffile==2025.5.10 \
  imagecodecs==2025.3.30 opencv-python-headless==5.0.0.93 pillow==12.0.0 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile
from PIL import Image

levels = np.tile(np.arange(100, 201, dtype=np.uint8), (64, 1))


def greatest_difference(pixels: np.ndarray) -> int:
    """Between what was read and what was written."""
    return int(np.abs(pixels.astype(int) - levels).max())


found = {}
for compression in ("zlib", "packbits"):
    file = io.BytesIO()
    tifffile.imwrite(file, levels, photometric="minisblack", compression=compression, predictor=True)
    data = file.getvalue()
    found[compression] = [
        greatest_difference(tifffile.imread(io.BytesIO(data))),
        greatest_difference(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)),
        greatest_difference(np.asarray(Image.open(io.BytesIO(data)))),
    ]
    own, opencv, pillow = found[compression]
    print(f"{compression:9} tifffile {own}  OpenCV {opencv}  Pillow {pillow}")
sys.exit(found != {"zlib": [0, 0, 0], "packbits": [0, 199, 199]})
PY
"$folder/venv/bin/python" "$folder/show.py"
