#!/usr/bin/env bash
# OpenCV: the greatest value of a PGM's header counts in the text form (P2), not in the binary (P5).
#
# In both forms of Netpbm's PGM the header states which value is white, and line-scan software uses
# it: 4095 for 12 bits. cv2.imdecode scales the text form to it, and takes the samples of the binary
# form as they are. So the same image has two brightnesses, and one of 12 bits is nearly black in 8:
# IMREAD_GRAYSCALE divides by 256 whatever the header says. Pillow scales both.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, Pillow 12.0.0, NumPy 2.2.6, Python 3.11;
# black, a quarter, a half and white:
#   P2, white is 100: OpenCV [0, 63, 127, 255]  Pillow [0, 64, 128, 255]
#   P5, white is 100: OpenCV [0, 25, 50, 100]  Pillow [0, 64, 128, 255]
#   P5, white is 4095: OpenCV [0, 4, 8, 15]
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

twelve_bits = np.array([0, 1024, 2048, 4095], ">u2").tobytes()
files = {
    "P2, white is 100": b"P2\n4 1\n100\n0 25 50 100\n",
    "P5, white is 100": b"P5\n4 1\n100\n" + bytes([0, 25, 50, 100]),
    "P5, white is 4095": b"P5\n4 1\n4095\n" + twelve_bits,
}
found = []
for name, data in files.items():
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)[0].tolist()
    found.append(levels)
    image = Image.open(io.BytesIO(data))
    other = f"  Pillow {np.asarray(image)[0].tolist()}" if image.mode == "L" else ""
    print(f"{name}: OpenCV {levels}{other}")
sys.exit(found != [[0, 63, 127, 255], [0, 25, 50, 100], [0, 4, 8, 15]])
PY
"$folder/venv/bin/python" "$folder/show.py"
