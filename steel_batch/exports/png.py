"""Masks as PNG: for each class that was found on an image one file, white on black."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import cv2

from steel_batch.answers.write import csv_line
from steel_batch.exports.selection import Image
from steel_batch.masks.rle import decode_rle

INDEX: Final = "index.csv"
"""Lists every image, also without a defect: its name, and per class the mask's file or nothing."""
_UNSAFE: Final = re.compile(r"[^\w .,=+@()-]")


def write_png(images: Iterable[Image], classes: Mapping[int, str], folder: Path) -> int:
    """Fill a folder with ``<class>/<name of the image>.png``; returns how many masks it has.

    Pixels are 255 in the mask and 0 outside, in one bit each. A name's characters that may lead
    elsewhere, or that file systems do not take, are written as ``%`` and their code.
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
    """A name as a relative path that stays where it is put; different names stay different."""
    return "/".join(map(_safe_part, name.split("/")))


def _safe_part(part: str) -> str:
    text = _UNSAFE.sub(lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), part)
    # "." and ".." lead elsewhere, an empty part is not seen.
    return text if text.strip(".") else f"%{text.replace('.', '%2E')}"
