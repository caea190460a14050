"""Draws scored images with the defects found on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.masks.rle import decode_rle

COLORS_BGR = (
    (77, 77, 255), (255, 176, 64), (80, 220, 80), (240, 90, 240),
    (60, 200, 255), (200, 200, 60), (130, 130, 255), (180, 255, 180),
)  # fmt: skip
CAPTION_PX = 22
GAP_PX = 10


def outline(image_HW: npt.NDArray[np.uint8], defects: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the outline of each defect on an image; the result is colour, [H, W, 3] BGR.

    Args:
        image_HW: The source image.
        defects: Values of `schema.DEFECT`.
    """
    picture = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2BGR)
    for defect in defects:
        mask_HW = decode_rle(defect["rle"], *image_HW.shape)
        edges, _ = cv2.findContours(mask_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, edges, -1, COLORS_BGR[defect["class_id"] - 1], 2, cv2.LINE_AA)
    return picture


def contact_sheet(
    rows: Sequence[Mapping[str, Any]],
    images_HW: Sequence[npt.NDArray[np.uint8]],
    classes: Sequence[str],
    *,
    width_px: int = 1280,
) -> bytes:
    """A PNG of images one below the other, each with its outlines and a caption.

    Args:
        rows: Rows of the predictions (`image_key`, `defects`).
        images_HW: Their images.
        classes: The classes' names.
        width_px: Width of the sheet.
    """
    strips = []
    for row, image_HW in zip(rows, images_HW, strict=True):
        picture = outline(image_HW, row["defects"])
        height = round(picture.shape[0] * width_px / picture.shape[1])
        picture = cv2.resize(picture, (width_px, height), interpolation=cv2.INTER_AREA)
        strips += [_caption(row, classes, width_px), picture, np.full((GAP_PX, width_px, 3), 24)]
    _, png = cv2.imencode(".png", np.vstack(strips).astype(np.uint8))
    return bytes(png)


def _caption(row: Mapping[str, Any], classes: Sequence[str], width_px: int) -> Any:
    band = np.full((CAPTION_PX, width_px, 3), 24, np.uint8)
    x = _write(band, f"{row['image_key']}   ", 4, (230, 230, 230))
    for defect in row["defects"]:
        name = classes[defect["class_id"] - 1]
        text = f"{name} {defect['area_px']} px ({defect['peak']:.2f})   "
        x = _write(band, text, x, COLORS_BGR[defect["class_id"] - 1])
    return band


def _write(band: Any, text: str, x: int, color: tuple[int, int, int]) -> int:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    cv2.putText(band, text, (x, 15), font, scale, color, 1, cv2.LINE_AA)
    (width, _), _ = cv2.getTextSize(text, font, scale, 1)
    return x + int(width)
