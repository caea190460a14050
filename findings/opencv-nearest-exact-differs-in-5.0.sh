#!/usr/bin/env bash
# OpenCV: INTER_NEAREST_EXACT picks other pixels in 5.0 than in 4.x, and 4.x is the exact one.
#
# cv2.resize with INTER_NEAREST_EXACT is documented as bit-exact nearest neighbour. From 512 to
# 1600 columns, 57 columns of OpenCV 5.0 come from the neighbour of the nearest source column;
# 4.14 agrees with integer arithmetic in all of them. Masks that two nodes scale with two versions
# of OpenCV differ, though each says "exact".
#
# Seen on 2026-11-28 with opencv-python-headless 4.14.0.94 and 5.0.0.93, NumPy 2.3.5, Python 3.11:
#   4.14.0: 0 of 1600 columns are not the nearest
#   5.0.0: 57 of 1600 columns are not the nearest, the first are [12, 212, 237]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/show.py" <<'PY'
import sys

import cv2
import numpy as np

source, target = 512, 1600
columns = np.arange(source, dtype=np.uint16)[None]
scaled = cv2.resize(columns, (target, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
# The middle of a target column lies in this source column: exact, in whole numbers.
nearest = (2 * np.arange(target) + 1) * source // (2 * target)
other = np.flatnonzero(scaled != nearest)
first = f", the first are {other[:3].tolist()}" if len(other) else ""
print(f"{cv2.__version__}: {len(other)} of {target} columns are not the nearest{first}")
sys.exit(len(other) != int(sys.argv[1]))
PY
for pair in 4.14.0.94:0 5.0.0.93:57; do
  version=${pair%:*}
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
    "opencv-python-headless==$version" numpy==2.3.5
  "$folder/$version/bin/python" "$folder/show.py" "${pair#*:}"
done
