"""Masks as PNG: one file per image and class found on it, white on black."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import cv2

from steel_batch.answers.write import csv_line
from steel_batch.exports.selection import Image
from steel_batch.masks.rle import decode_rle

INDEX: Final = "index.csv"
"""Lists every image, even without a defect: its name, and the mask's file per class or nothing."""
MOST_BYTES: Final = 255 - len(".png")
"""Of a part of a path, to which a suffix may be added: file systems accept 255."""
_UNSAFE: Final = re.compile(r"[^\w .,=+@()-]")


def write_png(images: Iterable[Image], classes: Mapping[int, str], folder: Path) -> int:
    """Fill a folder with ``<class>/<name of the image>.png``; return the number of masks.

    Pixels are 255 in the mask and 0 outside, with one bit each. Characters of a name that could
    lead out of the folder, or that file systems do not accept, are percent-encoded. The end of a
    name that is too long for them is replaced by ``~`` and a digest of the name.
    """
    num_masks = 0
    with (folder / INDEX).open("wb") as index:
        index.write(csv_line(["image", *classes.values()]))
        for image in images:
            files: dict[int, str] = {}
            for defect in image.defects:
                class_id = defect["class_id"]
                place = f"{safe_path(classes[class_id])}/{safe_path(image.name)}.png"
                path = folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                mask_HW = decode_rle(defect["rle"], image.height, image.width) * 255
                _, png = cv2.imencode(".png", mask_HW, [cv2.IMWRITE_PNG_BILEVEL, 1])
                path.write_bytes(png.tobytes())
                files[class_id] = place
                num_masks += 1
            index.write(csv_line([image.name, *(files.get(number) for number in classes)]))
    return num_masks


def safe_path(name: str) -> str:
    """Turn a name into a relative path inside its folder; different names stay different."""
    return "/".join(map(_safe_part, name.split("/")))


def _safe_part(part: str) -> str:
    text = _UNSAFE.sub(lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), part)
    if not text.strip("."):  # "." and ".." lead elsewhere; an empty part would vanish
        text = f"%{text.replace('.', '%2E')}"
    data = text.encode()
    if len(data) <= MOST_BYTES:
        return text
    # No other name becomes the same: a "~" in a name is percent-encoded.
    end = f"~{hashlib.sha256(data).hexdigest()[:32]}"
    return data[: MOST_BYTES - len(end)].decode(errors="ignore") + end
