"""The picture of the worst images: drawn from the rows, where the defects are."""

from __future__ import annotations

import cv2
import numpy as np

from steel_batch.masks.rle import encode_rle
from steel_batch.report.contact_sheet import CAPTION_PX, COLORS_BGR, GAP_PX, contact_sheet, outline


def block() -> tuple[np.ndarray, dict[str, object]]:
    """A black strip and one defect of class 2 on it."""
    mask_HW = np.zeros((64, 160), np.uint8)
    mask_HW[20:40, 50:90] = 1
    defect = {"class_id": 2, "rle": encode_rle(mask_HW), "area_px": 800, "peak": 0.9}
    return mask_HW, defect


def test_an_outline_is_drawn_round_the_defect_in_the_colour_of_its_class() -> None:
    mask_HW, defect = block()
    picture_HWC = outline(np.zeros_like(mask_HW), [defect])
    assert tuple(picture_HWC[20, 70]) == COLORS_BGR[1]
    assert not picture_HWC[24:36, 54:86].any(), "what lies inside stays to be seen"
    assert not picture_HWC[:, :44].any()


def test_an_image_without_defects_is_only_turned_into_colour() -> None:
    image_HW = np.arange(64 * 160, dtype=np.uint8).reshape(64, 160)
    assert (outline(image_HW, []) == image_HW[..., None]).all()


def test_a_sheet_holds_every_image_at_its_width_below_a_caption() -> None:
    _, defect = block()
    image_HW = np.full((64, 160), 99, np.uint8)
    rows = [{"image_key": "line=1/a.jpg", "defects": [defect]}] * 3
    png = contact_sheet(rows, [image_HW] * 3, ("pitted", "inclusion"), width_px=320)
    sheet_HWC = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert sheet_HWC is not None
    assert sheet_HWC.shape == (3 * (CAPTION_PX + 128 + GAP_PX), 320, 3)
    caption_HWC = sheet_HWC[:CAPTION_PX]
    assert is_written(caption_HWC, (230, 230, 230)), "the key is written"
    assert is_written(caption_HWC, COLORS_BGR[1]), "and the class in its colour"


def is_written(caption_HWC: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Whether there is text of a colour; thin lines are fainter in some versions of OpenCV."""
    background = caption_HWC[0, 0].astype(float)
    strength_HWC = (caption_HWC - background) / (np.array(color) - background)
    is_color_HW = np.ptp(strength_HWC, axis=2) < 0.1
    return bool((is_color_HW & (strength_HWC.min(axis=2) > 0.4)).any())
