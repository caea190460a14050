"""COCO instances: one annotation per class and image, with its mask as run-lengths."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from steel_batch.exports.selection import Image
from steel_batch.masks.coco_rle import coco_counts, compress_counts
from steel_batch.masks.rle import parse_rle

SPOOL_BYTES = 8 << 20
"""Bytes of annotations that are kept in memory; more are kept on disk."""


def write_coco(
    images: Iterable[Image], classes: Mapping[int, str], to: BinaryIO, *, for_cvat: bool = False
) -> int:
    """Write one JSON document; return its number of masks.

    Images and annotations are numbered from 1, in the order of `images`. Every image is listed,
    even without a defect. Annotations are kept in a temporary file until all images are written.

    Args:
        images: The images.
        classes: Names of the classes by number, which become the categories.
        to: The file to write to.
        for_cvat: Write masks as CVAT does: run-lengths as numbers, marked as crowds.
    """
    categories = [{"id": number, "name": name} for number, name in classes.items()]
    head = {"info": {"description": "steel-batch export"}, "licenses": [], "categories": categories}
    to.write(json.dumps(head)[:-1].encode() + b', "images": [')
    num_masks = 0
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as annotations:
        for image_id, image in enumerate(images, 1):
            listed = {
                "id": image_id, "file_name": image.name,
                "width": image.width, "height": image.height,
            }  # fmt: skip
            to.write(_entry(listed, is_first=image_id == 1))
            for defect in image.defects:
                num_masks += 1
                annotation = {
                    "id": num_masks, "image_id": image_id,
                    **_annotation(defect, image, for_cvat=for_cvat),
                }  # fmt: skip
                annotations.write(_entry(annotation, is_first=num_masks == 1))
        to.write(b'], "annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, to)
    to.write(b"]}\n")
    return num_masks


def _entry(value: Mapping[str, Any], *, is_first: bool) -> bytes:
    return (b"\n" if is_first else b",\n") + json.dumps(value).encode()


def _annotation(defect: Mapping[str, Any], image: Image, *, for_cvat: bool) -> dict[str, Any]:
    num_pixels = image.height * image.width
    counts = coco_counts(parse_rle(defect["rle"], num_pixels), num_pixels)
    box = defect["bbox"]
    return {
        "category_id": defect["class_id"],
        "bbox": [box[side] for side in "xywh"],
        "area": defect["area_px"],
        "segmentation": {
            "size": [image.height, image.width],
            "counts": counts.tolist() if for_cvat else compress_counts(counts),
        },
        "iscrowd": int(for_cvat),
        "score": defect["peak"],
    }
