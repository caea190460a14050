"""Small labelled images: two kinds of bright blocks on noise."""

from __future__ import annotations

import cv2
import numpy as np

from steel_batch.lake import Lake
from steel_batch.masks.rle import encode_rle
from training.dataset import Dataset, open_dataset

CLASSES = ("dim", "bright")
LEVELS = (150, 230)


def band(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its bitmask; about a third are clean."""
    rng = np.random.default_rng(seed)
    image_HW = rng.integers(40, 70, (height, width)).astype(np.uint8)
    bitmask_HW = np.zeros((height, width), np.uint8)
    for c, level in enumerate(LEVELS):
        if rng.random() < 0.45:
            y, x = rng.integers(0, height - 20), rng.integers(0, width - 40)
            image_HW[y : y + 15, x : x + 30] = level
            bitmask_HW[y : y + 15, x : x + 30] = 1 << c
    return image_HW, bitmask_HW


def write_bands(
    lake: Lake, *, num_images: int, height: int = 64, width: int = 160, prefix: str = ""
) -> None:
    """Write images and ``train.csv``."""
    rows = ["ImageId,ClassId,EncodedPixels"]
    for i in range(num_images):
        image_HW, bitmask_HW = band(i, height, width)
        lake.write(f"{prefix}im{i:03d}.png", bytes(cv2.imencode(".png", image_HW)[1]))
        for c in range(len(CLASSES)):
            rle = encode_rle((bitmask_HW >> c & 1).astype(np.uint8))
            if rle:
                rows.append(f"im{i:03d}.png,{c + 1},{rle}")
    lake.write("train.csv", "\n".join(rows).encode())


def open_bands(lake: Lake, *, num_images: int, height: int = 64, width: int = 160) -> Dataset:
    write_bands(lake, num_images=num_images, height=height, width=width)
    return open_dataset(lake, lake.read("train.csv"), source="train.csv")
