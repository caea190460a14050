#!/usr/bin/env bash
# OpenCV: the masks of a 32-bit BMP are looked at under some headers and not under others.
#
# A BMP with BI_BITFIELDS states by three masks where red, green and blue lie in a pixel. With a
# 40-byte header (masks after it) or a 52-byte one, cv2.imdecode takes the usual order whatever they
# state, and red and blue change places; with a 56- or 108-byte header it reads the same masks
# right. Writers that keep pixels as R, G, B, X (many cameras' frame buffers) produce either kind.
#
# Seen on 2026-11-29 with opencv-python-headless 5.0.0.93, NumPy 2.2.6, Python 3.11; one pixel of
# red 200, green 100, blue 50 whose red lies in the lowest byte:
#   header  40: R, G, B = [50, 100, 200]
#   header  52: R, G, B = [50, 100, 200]
#   header  56: R, G, B = [200, 100, 50]
#   header 108: R, G, B = [200, 100, 50]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opencv-python-headless==5.0.0.93 numpy==2.2.6
cat > "$folder/show.py" <<'PY'
import struct
import sys

import cv2
import numpy as np

RED, GREEN, BLUE = 200, 100, 50
MASKS = struct.pack("<3I", 0x000000FF, 0x0000FF00, 0x00FF0000)
NO_ALPHA = bytes(4)
BIT_FIELDS = 3
REST = {40: MASKS, 52: MASKS, 56: MASKS + NO_ALPHA, 108: MASKS + NO_ALPHA + b"BGRs" + bytes(48)}


def bmp(header_bytes: int) -> bytes:
    """One pixel under a header of so many bytes, the file header left out."""
    pixel = bytes([RED, GREEN, BLUE, 0])
    header = struct.pack(
        "<IiiHHIIiiII", header_bytes, 1, 1, 1, 32, BIT_FIELDS, len(pixel), 2835, 2835, 0, 0
    )
    front = header + REST[header_bytes]
    start = 14 + len(front)
    return struct.pack("<2sIHHI", b"BM", start + len(pixel), 0, 0, start) + front + pixel


found = {}
for header_bytes in REST:
    pixels = cv2.imdecode(np.frombuffer(bmp(header_bytes), np.uint8), cv2.IMREAD_COLOR)
    found[header_bytes] = pixels[0, 0, ::-1].tolist()
    print(f"header {header_bytes:3}: R, G, B = {found[header_bytes]}")
right, swapped = [RED, GREEN, BLUE], [BLUE, GREEN, RED]
sys.exit(found != {40: swapped, 52: swapped, 56: right, 108: right})
PY
"$folder/venv/bin/python" "$folder/show.py"
