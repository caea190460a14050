"""A decoder that ends a worker of Ray as soon as it is imported there, as an engine may."""

from __future__ import annotations

import os
import sys

from steel_batch.images.decode import decode_gray

if sys.argv[0].endswith("default_worker.py"):
    os._exit(7)

decode = decode_gray
