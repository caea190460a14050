#!/usr/bin/env bash
# OpenCV: a gray Sun raster file without a colour map is read as black, also one of OpenCV's own.
#
# Eight bits without a map are levels of gray in this format, and cv2.imencode writes them so. With
# IMREAD_GRAYSCALE, IMREAD_UNCHANGED or IMREAD_ANYDEPTH cv2.imdecode gives an image of the right
# size in which every pixel is 0, without an error. IMREAD_COLOR gives the right levels, as does
# Pillow, and all are right if the file has a map in which each level stands for itself.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, Pillow 12.0.0, NumPy 2.2.6, Python 3.11;
# the levels 0 to 255, written by OpenCV:
#   gray: 0 to 0   unchanged: 0 to 0   colour: 0 to 255   Pillow: 0 to 255
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 pillow==12.0.0 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import io
import sys

import cv2
import numpy as np
from PIL import Image

levels = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
data = cv2.imencode(".ras", levels)[1]
read = {
    "gray": cv2.imdecode(data, cv2.IMREAD_GRAYSCALE),
    "unchanged": cv2.imdecode(data, cv2.IMREAD_UNCHANGED),
    "colour": cv2.imdecode(data, cv2.IMREAD_COLOR),
    "Pillow": np.asarray(Image.open(io.BytesIO(data.tobytes()))),
}
print("   ".join(f"{name}: {image.min()} to {image.max()}" for name, image in read.items()))
sys.exit([int(image.max()) for image in read.values()] != [0, 0, 255, 255])
PY
"$folder/venv/bin/python" "$folder/show.py"
