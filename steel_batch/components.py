"""From one image's bitmask to its defects: areas, components, boxes and runs.

Components are 8-connected. Work is done per class and inside its bounding box only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.engine.contract import PostProcess
from steel_batch.rle import Runs, encode_runs, find_runs

MAX_COMPONENTS: Final = 32_767
"""What the column holds; noise of more components is counted as this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One class's pixels on one image."""

    class_id: int
    """From 1."""
    rle: str
    area_px: int
    num_components: int
    x: int
    y: int
    w: int
    h: int
    peak: float

    def to_row(self) -> dict[str, Any]:
        """The value of `schema.DEFECT`."""
        return {
            "class_id": self.class_id,
            "rle": self.rle,
            "area_px": self.area_px,
            "num_components": self.num_components,
            "bbox": {"x": self.x, "y": self.y, "w": self.w, "h": self.h},
            "peak": self.peak,
        }


def describe_defects(
    mask_HW: npt.NDArray[np.uint8],
    peak_C: npt.NDArray[np.float32],
    count_C: npt.NDArray[np.float32],
    post_process: PostProcess,
) -> list[Defect]:
    """The defects of one image.

    Args:
        mask_HW: Bitmask at source resolution.
        peak_C: Highest probability per class.
        count_C: Pixels per class as the engine counted them; a class of none costs nothing.
        post_process: Components and classes smaller than these are dropped.

    Returns:
        One defect per class that has pixels left, in the order of classes.
    """
    present = np.flatnonzero(count_C).tolist()
    if not present:
        return []
    defects = []
    for c, runs in zip(present, find_runs(mask_HW, present), strict=True):
        least = post_process.min_area_px[c]
        if not len(runs.start_px) or runs.area_px < least:
            continue
        defect = _describe(mask_HW, c, runs, float(peak_C[c]), post_process.min_component_px[c])
        if defect is not None and defect.area_px >= least:
            defects.append(defect)
    return defects


def _describe(
    mask_HW: npt.NDArray[np.uint8], c: int, runs: Runs, peak: float, min_component_px: int
) -> Defect | None:
    x, y, w, h = _box(runs, mask_HW.shape[0])
    crop_HW = (mask_HW[y : y + h, x : x + w] >> c) & 1
    if min_component_px > 1:
        num, labels_HW, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
            crop_HW, 8, cv2.CV_32S, cv2.CCL_GRANA
        )
        small = stats[:, cv2.CC_STAT_AREA] < min_component_px
        small[0] = False
        if small.any():
            kept_HW = np.zeros_like(mask_HW)
            kept_HW[y : y + h, x : x + w] = crop_HW & ~small[labels_HW]
            (runs,) = find_runs(kept_HW, [0])
            num -= int(small.sum())
            if not len(runs.start_px):
                return None
            x, y, w, h = _box(runs, mask_HW.shape[0])
    else:
        num, _ = cv2.connectedComponentsWithAlgorithm(crop_HW, 8, cv2.CV_32S, cv2.CCL_GRANA)
    return Defect(
        class_id=c + 1,
        rle=encode_runs(runs),
        area_px=runs.area_px,
        num_components=min(num - 1, MAX_COMPONENTS),
        x=x,
        y=y,
        w=w,
        h=h,
        peak=peak,
    )


def _box(runs: Runs, height: int) -> tuple[int, int, int, int]:
    """The bounding box of some runs: x, y, w, h."""
    first, last = runs.start_px - 1, runs.start_px - 2 + runs.length_px
    x, right = int(first[0]) // height, int(last[-1]) // height
    if (first // height != last // height).any():  # a run that goes on into the next column
        return x, 0, right - x + 1, height
    top, bottom = int((first % height).min()), int((last % height).max())
    return x, top, right - x + 1, bottom - top + 1
