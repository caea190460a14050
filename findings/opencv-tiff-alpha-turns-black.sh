#!/usr/bin/env bash
# OpenCV: a TIFF with unassociated alpha is multiplied by it; the same pixels as PNG or WebP are not.
#
# ExtraSamples = 2 says that a TIFF's colours are not multiplied by alpha and mean what they say.
# cv2.imdecode multiplies them all the same, in gray and in colour: pixels of alpha 0 come out
# black, without a word. From PNG and lossless WebP the colours come as they are. A camera that
# leaves alpha at 0 delivers black images in one format and good ones in the others.
#
# Seen on 2026-11-28 with opencv-python-headless 5.0.0.93 (4.14.0.94 the same), Pillow 12.0.0,
# NumPy 2.3.5, Python 3.11; a gray level of 200 with alpha 0:
#   PNG  gray 200 colour [200, 200, 200]
#   WEBP gray 200 colour [200, 200, 200]
#   TIFF gray 0 colour [0, 0, 0]
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

pixels = np.full((4, 4, 4), 200, np.uint8)
pixels[..., 3] = 0
found = {}
for kind, options in {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {}}.items():
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    data = np.frombuffer(file.getvalue(), np.uint8)
    gray = int(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)[0, 0])
    colour = cv2.imdecode(data, cv2.IMREAD_COLOR)[0, 0].tolist()
    found[kind] = (gray, colour)
    print(f"{kind:4} gray {gray} colour {colour}")
good = (200, [200] * 3)
sys.exit(found != {"PNG": good, "WEBP": good, "TIFF": (0, [0] * 3)})
PY
"$folder/venv/bin/python" "$folder/show.py"
