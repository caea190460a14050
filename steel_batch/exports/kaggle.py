"""The label files of the Severstal competition, in both published layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import BinaryIO, Final

from steel_batch.answers.write import csv_line
from steel_batch.exports.selection import Image

LAYOUTS: Final = ("split", "joined")
"""``ImageId,ClassId,EncodedPixels`` with rows for defects only, or
``ImageId_ClassId,EncodedPixels`` with a row for every class of every image."""


def write_kaggle(
    images: Iterable[Image], classes: Mapping[int, str], to: BinaryIO, layout: str
) -> int:
    """Write a label file; return its number of masks.

    Args:
        images: The images.
        classes: Names of the classes by number.
        to: The file to write to.
        layout: One of `LAYOUTS`.
    """
    is_joined, num_masks = layout == "joined", 0
    header = ["ImageId_ClassId"] if is_joined else ["ImageId", "ClassId"]
    to.write(csv_line([*header, "EncodedPixels"]))
    for image in images:
        masks = {defect["class_id"]: defect["rle"] for defect in image.defects}
        num_masks += len(masks)
        if is_joined:
            for class_id in classes:
                to.write(csv_line([f"{image.name}_{class_id}", masks.get(class_id)]))
        else:
            for class_id, rle in masks.items():
                to.write(csv_line([image.name, class_id, rle]))
    return num_masks
