#!/usr/bin/env bash
# Ray Data: read_images(mode="L") makes 12-bit camera images white; without mode they are whole.
#
# The mode is passed to Pillow's convert, which cuts gray levels of 16-bit files at 255 instead of
# scaling them. A PNG of a 10-, 12- or 14-bit camera becomes white wherever it is not nearly black,
# with the shape and dtype that were asked for and without a warning. mode="RGB" does the same.
# Without a mode the levels come as uint16, all of them.
#
# Seen on 2026-11-29 with ray 2.60.0, Pillow 12.3.0, NumPy 2.4.4, PyArrow 26.0.1, Python 3.11; 64
# levels, 0 to 4,032, of a 12-bit camera:
#   mode None   uint16, 64 levels, 0 to 4032
#   mode L      uint8, 5 levels, 0 to 255
#   mode RGB    uint8, 5 levels, 0 to 255
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'ray[data]==2.60.0' pillow==12.3.0 numpy==2.4.4 pyarrow==26.0.1
cat > "$folder/show.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import ray
from PIL import Image

images = Path(sys.argv[1]) / "images"
images.mkdir()
levels = np.tile(np.arange(64, dtype=np.uint16) * 64, (8, 1))
Image.fromarray(levels).save(images / "strip.png")
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
found = {}
for mode in (None, "L", "RGB"):
    pixels = ray.data.read_images(str(images), mode=mode).take_all()[0]["image"]
    found[mode] = (str(pixels.dtype), len(np.unique(pixels)), int(pixels.max()))
    kind, num_levels, greatest = found[mode]
    print(f"mode {mode!s:6} {kind}, {num_levels} levels, 0 to {greatest}", flush=True)
cut = ("uint8", 5, 255)
sys.exit(found != {None: ("uint16", 64, 4032), "L": cut, "RGB": cut})
PY
"$folder/venv/bin/python" "$folder/show.py" "$folder" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
