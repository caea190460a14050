#!/usr/bin/env bash
# OpenCV: IMREAD_GRAYSCALE of a PFM file with three channels gives three channels.
#
# Whatever the flag says, a "PF" file is read with three channels and a "Pf" file with one: gray
# does not become gray, and IMREAD_COLOR of a gray file has no third axis. The depth follows the
# flag: without IMREAD_ANYDEPTH the samples are rounded to 8 bits. Code that asked for gray and
# unpacks `height, width = image.shape` fails on one file among many; code that does not, goes on
# with an image of another shape. All other formats of this build that can hold colour obey.
#
# Seen on 2026-11-30 with opencv-python-headless 5.0.0.93, NumPy 2.4.6, Python 3.11; a height map
# of 4 x 6 samples:
#   PFM, 3 channels: gray (4, 6, 3), color (4, 6, 3)
#   PFM, 1 channel:  gray (4, 6), color (4, 6)
#   PPM, 3 channels: gray (4, 6), color (4, 6, 3)
#   PGM, 1 channel:  gray (4, 6), color (4, 6, 3)
#   HDR, 3 channels: gray (4, 6), color (4, 6, 3)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import sys

import cv2
import numpy as np

heights = np.arange(24, dtype=np.float32).reshape(4, 6)
one, three = (4, 6), (4, 6, 3)
FILES = {
    "PFM, 3 channels": (".pfm", np.dstack([heights] * 3), (three, three)),
    "PFM, 1 channel": (".pfm", heights, (one, one)),
    "PPM, 3 channels": (".ppm", np.dstack([heights.astype(np.uint8)] * 3), (one, three)),
    "PGM, 1 channel": (".pgm", heights.astype(np.uint8), (one, three)),
    "HDR, 3 channels": (".hdr", np.dstack([heights] * 3), (one, three)),
}
is_as_described = True
for name, (suffix, samples, expected) in FILES.items():
    file = cv2.imencode(suffix, samples)[1]
    gray = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE).shape
    color = cv2.imdecode(file, cv2.IMREAD_COLOR).shape
    print(f"{name + ':':16} gray {gray}, color {color}")
    is_as_described &= (gray, color) == expected
sys.exit(not is_as_described)
PY
"$folder/venv/bin/python" "$folder/show.py"
