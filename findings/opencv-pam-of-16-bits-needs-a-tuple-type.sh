#!/usr/bin/env bash
# OpenCV: a PAM of 16 bits without a tuple type is not read; OpenCV itself writes it so.
#
# The line TUPLTYPE is optional in a PAM: depth and maxval say how to read it. OpenCV does without
# it where samples have 8 bits, and returns None where they have 16. imencode writes no tuple type
# unless it is told one, and says that it succeeded: an image of 16 bits goes out and never comes
# back. The same samples as PGM do, or with IMWRITE_PAM_TUPLETYPE set.
#
# Seen on 2026-11-30 with OpenCV 5.0.0 and NumPy 2.2.6, Python 3.11: whether imdecode returns what
# imencode was given:
#   pam uint8                 True
#   pam uint16                None
#   pam uint16 with a type    True
#   pgm uint16                True
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

samples = np.arange(48).reshape(6, 8)
typed = [cv2.IMWRITE_PAM_TUPLETYPE, cv2.IMWRITE_PAM_FORMAT_GRAYSCALE]
found = []
for name, suffix, kind, options in (
    ("pam uint8", ".pam", np.uint8, []),
    ("pam uint16", ".pam", np.uint16, []),
    ("pam uint16 with a type", ".pam", np.uint16, typed),
    ("pgm uint16", ".pgm", np.uint16, []),
):
    image = (samples * (1000 if kind is np.uint16 else 1)).astype(kind)
    written, data = cv2.imencode(suffix, image, options)
    assert written
    back = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    found.append(None if back is None else bool(np.array_equal(back, image)))
    print(f"{name:25} {found[-1]}")
sys.exit(0 if found == [True, None, True, True] else 1)
PY
"$folder/venv/bin/python" "$folder/show.py" 2> /dev/null
