#!/usr/bin/env bash
# OpenCV: cv2.reduce adds the squares of bytes as 32-bit integers, even into a double.
#
# REDUCE_SUM2 with dtype=CV_64F promises a double per row. For 8-bit input the squares are added as
# 32-bit integers and converted at the end, so a bright row of 33,026 pixels has a negative sum of
# squares, and one of 66,052 a small positive one that looks right. CV_32F does the same. cv2.norm
# with NORM_L2SQR adds the same bytes correctly.
#
# Seen on 2026-11-29 with opencv-python-headless 4.12.0.88 and 5.0.0.93, NumPy 2.2.6, Python 3.11,
# for rows of white pixels (255):
#   4.12.0: 33,026 pixels: -2,147,451,646 as a double; expected 2,147,515,650
#   4.12.0: 66,052 pixels: 64,004 as a double; expected 4,295,031,300
#   5.0.0: the same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PY'
import sys

import cv2
import numpy as np

is_as_described = True
for num_px, seen in ((33_025, 2_147_450_625), (33_026, -2_147_451_646), (66_052, 64_004)):
    row = np.full((1, num_px), 255, np.uint8)
    found = float(cv2.reduce(row, 1, cv2.REDUCE_SUM2, dtype=cv2.CV_64F)[0, 0])
    print(
        f"{cv2.__version__}: {num_px:,} pixels: {found:,.0f} as a double; "
        f"expected {num_px * 255**2:,}, as NORM_L2SQR says: {cv2.norm(row, cv2.NORM_L2SQR):,.0f}"
    )
    is_as_described &= found == seen
sys.exit(not is_as_described)
PY
for version in 4.12.0.88 5.0.0.93; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
    "opencv-python-headless==$version" numpy==2.2.6
  "$folder/$version/bin/python" "$folder/show.py"
done
