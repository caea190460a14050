"""Pictures of a report: an image at the size it is shown at, with outlines that can be seen on it.

Outlines are drawn after shrinking, so none is thinned, and each lies in a dark one, so that it is
seen on a bright strip too. Shape suffixes: H rows, W columns.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.masks.rle import decode_rle

COLORS_BGR: Final = (
    (233, 180, 86), (0, 159, 230), (115, 200, 40), (200, 130, 225),
    (66, 228, 240), (60, 120, 255), (230, 230, 230), (255, 150, 160),
)  # fmt: skip
"""Of classes, by their numbers: told apart by colour-blind readers too, and bright on a dark line.
"""
_HALO_BGR: Final = (0, 0, 0)
WIDTH_PX: Final = 800
HEIGHT_PX: Final = 440
_QUALITY: Final = 80


def outlined(
    image_HW: npt.NDArray[np.uint8],
    layers: Sequence[tuple[npt.NDArray[np.uint8], tuple[int, int, int]]],
) -> npt.NDArray[np.uint8]:
    """An image with the outlines of some masks, [H, W, 3] BGR, at most `WIDTH_PX` wide.

    Args:
        image_HW: The image.
        layers: Masks of its size (0 or 1), each with its colour.
    """
    height, width = image_HW.shape
    scale = min(WIDTH_PX / width, HEIGHT_PX / height, 4.0)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    picture = cv2.cvtColor(cv2.resize(image_HW, size, interpolation=method), cv2.COLOR_GRAY2BGR)
    edges = []
    for mask_HW, color in layers:
        shown_HW = cv2.resize(mask_HW * np.uint8(255), size, interpolation=method)
        least = 1 if scale < 1 else 128  # a thin mask that is shrunk stays
        found, _ = cv2.findContours(
            (shown_HW >= least).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        edges.append((found, color))
    for found, _ in edges:
        cv2.drawContours(picture, found, -1, _HALO_BGR, 4)
    for found, color in edges:
        cv2.drawContours(picture, found, -1, color, 2)
    return np.asarray(picture, np.uint8)


def defects_of(
    image_HW: npt.NDArray[np.uint8], defects: Sequence[Mapping[str, Any]]
) -> list[tuple[npt.NDArray[np.uint8], tuple[int, int, int]]]:
    """The layers of an image's defects (`schema.DEFECT`), in the colours of their classes."""
    return [
        (decode_rle(defect["rle"], *image_HW.shape), color_of(defect["class_id"]))
        for defect in defects
    ]


def color_of(class_id: int) -> tuple[int, int, int]:
    """The colour of a class, in BGR."""
    return COLORS_BGR[(class_id - 1) % len(COLORS_BGR)]


def picture(pixels_HWC: npt.NDArray[np.uint8], caption: str) -> str:
    """A picture as HTML, which holds it.

    Args:
        pixels_HWC: BGR.
        caption: HTML under it.
    """
    _, data = cv2.imencode(".jpg", pixels_HWC, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    height, width = pixels_HWC.shape[:2]
    return (
        f'<figure><img alt="" width="{width}" height="{height}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def legend(names: Mapping[str, tuple[int, int, int]]) -> str:
    """Names with the colours that they are outlined in, as HTML."""
    return ", ".join(
        f'<span style="color:rgb({r},{g},{b});background:#222;padding:0 .3em">{escape(name)}</span>'
        for name, (b, g, r) in names.items()
    )
