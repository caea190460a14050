#!/usr/bin/env bash
# OpenCV: a gray TIFF of 16 bits whose white is 0 is read as its negative, but only at full depth.
#
# PhotometricInterpretation = 0 (WhiteIsZero) says that sample 0 is white; film scanners and some
# line-scan software write it. At 8 bits cv2.imdecode inverts such samples with every flag. At 16
# bits it does so with IMREAD_GRAYSCALE and IMREAD_COLOR, and returns them as they are stored with
# IMREAD_UNCHANGED and IMREAD_ANYDEPTH. So whoever asks for all 16 bits gets the negative of what
# the same file gives at 8, and of what the same picture gives as an 8-bit file.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, tifffile 2025.10.16, NumPy 2.3.5,
# Python 3.11; the first three pixels of a row that begins with white, scaled to 8 bits:
#    8 bits  gray [255, 245, 235]  unchanged [255, 245, 235]  any depth [255, 245, 235]
#   16 bits  gray [255, 245, 235]  unchanged [0, 10, 20]  any depth [0, 10, 20]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 tifffile==2025.10.16 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import io
import sys

import cv2
import numpy as np
import tifffile

FLAGS = {
    "gray": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "any depth": cv2.IMREAD_ANYDEPTH,
}
stored = np.tile(np.arange(0, 160, 10, dtype=np.uint8), (4, 1))
found = {}
for bits, samples in ((8, stored), (16, stored.astype(np.uint16) * 256)):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="miniswhite")
    data = np.frombuffer(file.getvalue(), np.uint8)
    for name, flag in FLAGS.items():
        image = cv2.imdecode(data, flag)
        found[bits, name] = (image[0, :3] >> (8 * (image.itemsize - 1))).tolist()
    print(f"{bits:2} bits ", "  ".join(f"{name} {found[bits, name]}" for name in FLAGS))
inverted, negative = [255, 245, 235], [0, 10, 20]
expected = {(bits, name): inverted for bits in (8, 16) for name in FLAGS}
expected |= {(16, "unchanged"): negative, (16, "any depth"): negative}
sys.exit(found != expected)
PY
"$folder/venv/bin/python" "$folder/show.py"
