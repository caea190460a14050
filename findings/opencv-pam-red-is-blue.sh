#!/usr/bin/env bash
# OpenCV: in a PAM file, red and blue are exchanged, when it is read and when it is written.
#
# PAM (P7 of Netpbm) with TUPLTYPE RGB has red first, as PPM has. cv2.imdecode takes the first
# sample for blue, and cv2.imencode writes blue first, so OpenCV's own files come back as they were
# and the fault is seen by other programs only. IMREAD_GRAYSCALE knows the right order: of a PAM
# that OpenCV wrote, it weighs blue as red, and is up to 47 levels off what IMREAD_COLOR gives.
# PPM is right in all of it.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, NumPy 2.2.6, Python 3.11; a red pixel:
#   PPM: as BGR [0, 0, 255], gray 76; written as 255 0 0
#   PAM: as BGR [255, 0, 0], gray 76; written as 0 0 255
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

RED = bytes([255, 0, 0])
files = {
    "PPM": b"P6\n1 1\n255\n" + RED,
    "PAM": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + RED,
}
found = []
for name, data in files.items():
    raw = np.frombuffer(data, np.uint8)
    color = cv2.imdecode(raw, cv2.IMREAD_COLOR)[0, 0].tolist()
    gray = int(cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE)[0, 0])
    red_BGR = np.array([[[0, 0, 255]]], np.uint8)
    written = list(cv2.imencode(f".{name.lower()}", red_BGR)[1].tobytes()[-3:])
    found.append((color, gray, written))
    print(f"{name}: as BGR {color}, gray {gray}; written as {' '.join(map(str, written))}")
expected = [([0, 0, 255], 76, [255, 0, 0]), ([255, 0, 0], 76, [0, 0, 255])]
sys.exit(found != expected)
PY
"$folder/venv/bin/python" "$folder/show.py"
