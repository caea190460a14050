"""Four families of defects, each drawn into an image together with its exact mask.

1. *pits*: groups of small dark dots and short marks with a light rim;
2. *lines*: one or two long, thin, dark marks along the strip;
3. *scratches*: bright, ragged, scraped or peeled areas, from hair-thin to the full height;
4. *scabs*: large rough patches in relief, with dark and bright areas next to each other.

Sizes, counts and shares follow the masks of the Severstal training set.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from steel_batch.synthetic.noise import (
    Field,
    Mask,
    Rng,
    chance,
    close,
    grow,
    log_uniform,
    smooth_field,
    soften,
    uniform,
    whole,
)

CLASSES = ("pits", "lines", "scratches", "scabs")

COMBINATIONS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((), 0.520),
    ((3,), 0.312),
    ((1,), 0.057),
    ((4,), 0.050),
    ((3, 4), 0.028),
    ((2,), 0.019),
    ((1, 3), 0.009),
    ((1, 2), 0.004),
    ((2, 3), 0.001),
)
"""Which classes occur together, and how often: combinations of at least 2 % of defective images."""


def choose_classes(rng: Rng) -> tuple[int, ...]:
    """Choose the classes of one image."""
    draw, total = rng.random(), 0.0
    for classes, share in COMBINATIONS:
        total += share
        if draw < total:
            return classes
    return ()


def draw_defect(rng: Rng, class_id: int, image_HW: Field, steel_HW: Mask) -> Mask:
    """Draw one class's defects into an image.

    Args:
        rng: Source of every random choice.
        class_id: 1 to 4.
        image_HW: Brightness; changed in place.
        steel_HW: 1 where there is steel; nothing is drawn elsewhere.

    Returns:
        The mask, 0 or 1, of what was drawn; never empty.
    """
    mask_HW = np.zeros(image_HW.shape, np.uint8)
    draw = _FAMILIES[class_id]
    for attempt in range(20):
        wanted = 1 if attempt else _num_components(rng, class_id)
        for _ in range(wanted):
            draw(rng, image_HW, steel_HW, mask_HW)
        if int(mask_HW.sum()) >= 150:
            return mask_HW
    return mask_HW


def _num_components(rng: Rng, class_id: int) -> int:
    """Number of marks; the published masks have 1 to 10, 1 to 2, 1 to 7 and 1 to 6."""
    most = {1: 9, 2: 2, 3: 6, 4: 5}[class_id]
    return min(most, int(log_uniform(rng, 1, most + 1)))


def _place(rng: Rng, steel_HW: Mask, height: int, width: int) -> tuple[int, int] | None:
    """Top left corner of a box that lies mostly on steel."""
    rows, columns = steel_HW.shape
    for _ in range(8):
        y = whole(rng, min(0, rows - height), max(0, rows - height))
        x = whole(rng, 0, columns - width)
        if steel_HW[
            min(max(y + height // 2, 0), rows - 1), [x, x + width // 2, x + width - 1]
        ].all():
            return max(0, y), x
    return None


def _blend(
    image_HW: Field,
    steel_HW: Mask,
    mask_HW: Mask,
    y: int,
    x: int,
    paint: Field,
    drawn: Mask,
    margin: int,
) -> None:
    """Add `paint` to the image at (y, x), and the outline of `drawn` to the mask."""
    rows, columns = image_HW.shape
    height, width = min(drawn.shape[0], rows - y), min(drawn.shape[1], columns - x)
    on_steel = steel_HW[y : y + height, x : x + width]
    image_HW[y : y + height, x : x + width] += paint[:height, :width] * on_steel
    padded = cv2.copyMakeBorder(drawn, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    outline = grow(padded, margin)
    top, left = max(0, y - margin), max(0, x - margin)
    outline = outline[top - (y - margin) :, left - (x - margin) :]
    target = mask_HW[top : top + outline.shape[0], left : left + outline.shape[1]]
    outline = outline[: target.shape[0], : target.shape[1]]
    target |= outline & steel_HW[top : top + target.shape[0], left : left + target.shape[1]]


def _contrast(rng: Rng, image_HW: Field, y: int, x: int, low: float, high: float) -> float:
    """A step in brightness, relative to the brightness at that place."""
    around = float(image_HW[y : y + 40, x : x + 40].mean())
    return uniform(rng, low, high) * max(around, 35.0)


def _pits(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    height, width = int(log_uniform(rng, 30, 190)), int(log_uniform(rng, 16, 48))
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    dots = np.zeros((height, width), np.uint8)
    num = max(3, int(height * width / uniform(rng, 130, 320)))
    for _ in range(num):
        center = (whole(rng, 4, width - 5), whole(rng, 4, height - 5))
        size = (whole(rng, 1, 2), whole(rng, 1, 5))
        cv2.ellipse(dots, center, size, uniform(rng, -25, 25), 0, 360, 1, -1)
    step = _contrast(rng, image_HW, *place, 0.4, 0.75)
    dark = soften(dots, 3)
    shifted = np.roll(dark, (1, 2), (0, 1))
    paint = (-step * dark + 0.55 * step * np.clip(shifted - dark, 0, 1)).astype(np.float32)
    _blend(image_HW, steel_HW, mask_HW, *place, paint, close(dots, 13), 5)


def _lines(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    height, width = int(log_uniform(rng, 85, 256)), 48
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    wander = np.cumsum(rng.standard_normal(height, np.float32)) * 0.16
    x = np.clip(width / 2 + wander - wander.mean(), 8, width - 9)
    thick = uniform(rng, 0.9, 2.2)
    distance = np.abs(np.arange(width, dtype=np.float32)[None] - x[:, None])
    fade = np.clip(1.1 + 0.5 * smooth_field(rng, height, 2, 30, 2)[:, :1], 0.45, 1.3)
    opacity = np.exp(-((distance / thick) ** 2)) * fade
    step = _contrast(rng, image_HW, *place, 0.45, 0.8)
    drawn = (distance < thick + 1).astype(np.uint8)
    paint = (-step * opacity).astype(np.float32)
    _blend(image_HW, steel_HW, mask_HW, *place, paint, drawn, whole(rng, 4, 6))


def _scratches(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    kind = rng.random()
    if kind < 0.5:
        _scrape(rng, image_HW, steel_HW, mask_HW)
    elif kind < 0.8:
        _flakes(rng, image_HW, steel_HW, mask_HW)
    else:
        _scratch(rng, image_HW, steel_HW, mask_HW)


def _scrape(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    """A tall area where the surface is torn off, white and ragged."""
    height, width = int(log_uniform(rng, 80, 380)), int(log_uniform(rng, 16, 70))
    if chance(rng, 0.12):
        width = int(log_uniform(rng, 100, 520))
    height = min(height, 256)
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    shape = smooth_field(rng, height, width, 24, 9) + 0.8 * smooth_field(rng, height, width, 7, 4)
    middle = 1 - np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None] ** 2
    torn = (shape + 2.4 * middle > 1.7).astype(np.uint8)
    step = _contrast(rng, image_HW, *place, 0.5, 1.7)
    rough = 0.75 + 0.35 * smooth_field(rng, height, width, 4, 3)
    paint = (step * soften(torn, 3) * np.clip(rough, 0.2, 1.6)).astype(np.float32)
    _blend(image_HW, steel_HW, mask_HW, *place, paint, close(torn, 9), 4)


def _flakes(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    """A loose group of bright torn spots."""
    height, width = int(log_uniform(rng, 40, 150)), int(log_uniform(rng, 30, 140))
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    torn = np.zeros((height, width), np.uint8)
    for _ in range(max(3, int(height * width / uniform(rng, 700, 1500)))):
        center = (whole(rng, 5, width - 6), whole(rng, 5, height - 6))
        size = (whole(rng, 2, 6), whole(rng, 3, 12))
        cv2.ellipse(torn, center, size, uniform(rng, -40, 40), 0, 360, 1, -1)
    torn &= (smooth_field(rng, height, width, 5, 4) > -0.7).astype(np.uint8)
    step = _contrast(rng, image_HW, *place, 0.55, 1.8)
    paint = (step * soften(torn, 3)).astype(np.float32)
    _blend(image_HW, steel_HW, mask_HW, *place, paint, close(torn, 11), 4)


def _scratch(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    """One long bright scratch across the strip, fraying."""
    width, height = int(log_uniform(rng, 120, 640)), int(log_uniform(rng, 18, 90))
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    slope = uniform(rng, -0.5, 0.5) * (height - 14) / width
    x = np.arange(width, dtype=np.float32)
    y = height / 2 + slope * (x - width / 2) + 2 * smooth_field(rng, 2, width, 2, 80)[0]
    thick = np.clip(2.2 + 1.6 * smooth_field(rng, 2, width, 2, 40)[0], 0.8, 6)
    distance = np.abs(np.arange(height, dtype=np.float32)[:, None] - y[None])
    fray = smooth_field(rng, height, width, 2, 22)
    line = (distance + 0.8 * fray < thick[None]).astype(np.uint8)
    step = _contrast(rng, image_HW, *place, 0.45, 1.4)
    paint = (step * soften(line, 3)).astype(np.float32)
    _blend(image_HW, steel_HW, mask_HW, *place, paint, close(line, 6), 4)


def _scabs(rng: Rng, image_HW: Field, steel_HW: Mask, mask_HW: Mask) -> None:
    height, width = int(log_uniform(rng, 64, 256)), int(log_uniform(rng, 80, 480))
    place = _place(rng, steel_HW, height, width)
    if place is None:
        return
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    body = 1 - (x * x + y * y) + 0.45 * smooth_field(rng, height, width, height / 4, width / 4)
    body += 0.22 * smooth_field(rng, height, width, 12, 16)
    patch = cv2.morphologyEx((body > 0.34).astype(np.uint8), cv2.MORPH_OPEN, _DISK)
    relief = smooth_field(rng, height, width, 16, 24) + 0.6 * smooth_field(rng, height, width, 6, 8)
    lit = cv2.Sobel(relief, cv2.CV_32F, 1, 1, ksize=3) * 0.8 + 0.5 * relief
    edge = soften(patch, 5)
    rim = cv2.Sobel(edge, cv2.CV_32F, 1, 0) - cv2.Sobel(edge, cv2.CV_32F, 0, 1)
    step = _contrast(rng, image_HW, *place, 0.28, 0.6)
    shade = uniform(rng, -0.35, 0.1)
    paint = step * edge * (np.clip(lit, -1.6, 1.8) + shade) + 0.4 * step * rim
    _blend(image_HW, steel_HW, mask_HW, *place, paint.astype(np.float32), close(patch, 5), 2)


_DISK = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15))
_FAMILIES: dict[int, Callable[[Rng, Field, Mask, Mask], None]] = {
    1: _pits,
    2: _lines,
    3: _scratches,
    4: _scabs,
}
