#!/usr/bin/env bash
# OpenCV: a reduced image is a pixel larger from a JPEG than from any other format.
#
# IMREAD_REDUCED_GRAYSCALE_2, _4 and _8 (and those for colour) give a half, a quarter or an eighth
# of the size. If a side is not a multiple of that, JPEGs are rounded up, as libjpeg scales them
# while it decodes, and every other format is rounded down, as OpenCV resizes what was decoded. So
# the same picture as JPEG and as PNG has two shapes: thumbnails of both do not fit into one array,
# and boxes found on them are at other places.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, NumPy 2.2.6, Python 3.11; an image of
# 255 x 1599 pixels (height x width), reduced by 2, 4 and 8:
#   .jpg 128x800 64x400 32x200
#   .png 127x799 63x399 31x199   the same: .bmp, .tiff, .webp, .jp2, .pgm
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import sys

import cv2
import numpy as np

FLAGS = (
    cv2.IMREAD_REDUCED_GRAYSCALE_2,
    cv2.IMREAD_REDUCED_GRAYSCALE_4,
    cv2.IMREAD_REDUCED_GRAYSCALE_8,
)
strip = np.tile(np.linspace(0, 255, 1599).astype(np.uint8), (255, 1))
shapes = {}
for ending in (".jpg", ".png", ".bmp", ".tiff", ".webp", ".jp2", ".pgm"):
    data = cv2.imencode(ending, strip)[1]
    shapes[ending] = [cv2.imdecode(data, flag).shape for flag in FLAGS]
    print(ending, *("x".join(map(str, shape)) for shape in shapes[ending]))
up = [(128, 800), (64, 400), (32, 200)]
down = [(127, 799), (63, 399), (31, 199)]
sys.exit(shapes.pop(".jpg") != up or any(found != down for found in shapes.values()))
PY
"$folder/venv/bin/python" "$folder/show.py"
