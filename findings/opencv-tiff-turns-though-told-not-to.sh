#!/usr/bin/env bash
# OpenCV: a TIFF is turned by its Orientation whatever the flags; JPEG and PNG obey them.
#
# IMREAD_IGNORE_ORIENTATION, and IMREAD_UNCHANGED which implies it, keep a JPEG or PNG as it is
# stored, whatever orientation its EXIF data states. A TIFF states the same tag (274) with the same
# values, and is turned all the same: its rows and columns are not those of the file, and masks
# drawn on it do not fit. No flag reads it as stored.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, Pillow 12.0.0, NumPy 2.3.5, Python 3.11;
# the first row of a 2x4 image that is stored as 0 10 20 30 / 40 50 60 70, with orientation 3:
#   PNG   gray [70, 60, 50, 40]  unchanged [0, 10, 20, 30]  ignored [0, 10, 20, 30]
#   JPEG  gray [70, 60, 50, 40]  unchanged [0, 10, 20, 30]  ignored [0, 10, 20, 30]
#   TIFF  gray [70, 60, 50, 40]  unchanged [70, 60, 50, 40]  ignored [70, 60, 50, 40]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 pillow==12.0.0 numpy==2.3.5
cat > "$folder/show.py" <<'PY'
import io
import sys

import cv2
import numpy as np
from PIL import Image

FLAGS = {
    "gray": cv2.IMREAD_GRAYSCALE,
    "unchanged": cv2.IMREAD_UNCHANGED,
    "ignored": cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
}
# Each value fills 8x8 pixels, so that JPEG keeps it.
stored = np.kron(np.arange(0, 80, 10).reshape(2, 4), np.ones((8, 8))).astype(np.uint8)
exif = Image.Exif()
exif[274] = 3  # turned by 180 degrees
found = {}
for kind, options in {
    "PNG": {"exif": exif},
    "JPEG": {"exif": exif, "quality": 100},
    "TIFF": {"tiffinfo": {274: 3}},
}.items():
    file = io.BytesIO()
    Image.fromarray(stored).save(file, kind, **options)
    data = np.frombuffer(file.getvalue(), np.uint8)
    for name, flag in FLAGS.items():
        image = cv2.imdecode(data, flag)
        found[kind, name] = [int(round(v, -1)) for v in image[4, 4::8].tolist()]
    print(f"{kind:5}", "  ".join(f"{name} {found[kind, name]}" for name in FLAGS))
as_stored, turned = [0, 10, 20, 30], [70, 60, 50, 40]
expected = {key: turned if "gray" in key or "TIFF" in key else as_stored for key in found}
sys.exit(found != expected)
PY
"$folder/venv/bin/python" "$folder/show.py"
