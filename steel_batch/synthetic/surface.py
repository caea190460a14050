"""Rolled steel without defects: grain, streaks, light, water, edges and patterned plate.

Much of what a camera sees on a strip is not a defect. Stains, drips, streaks and strip ends are
drawn here, so that a model has to learn the difference.
"""

from __future__ import annotations

import cv2
import numpy as np

from steel_batch.synthetic.noise import (
    Field,
    Mask,
    Rng,
    chance,
    close,
    log_uniform,
    profile,
    smooth_field,
    soften,
    uniform,
    whole,
)

HEIGHT, WIDTH = 256, 1600


def make_surface(rng: Rng) -> tuple[Field, Mask]:
    """Draw one strip.

    Returns:
        Brightness 0 to 255 before the sensor, [H, W], and a mask of steel (1) and the dark area
        next to the strip (0).
    """
    image_HW = _light(rng)
    image_HW *= _streaks(rng)
    if chance(rng, 0.6):
        image_HW *= _drips(rng)
    if chance(rng, 0.35):
        image_HW *= _tones(rng)
    if chance(rng, 0.3):
        image_HW += _speckle(rng)
    if chance(rng, 0.07):
        image_HW += _plate(rng) * float(image_HW.mean() / 90)
    if chance(rng, 0.45):
        image_HW += _fine_lines(rng)
    image_HW += _grain(rng)
    steel_HW = np.ones((HEIGHT, WIDTH), np.uint8)
    if chance(rng, 0.16):
        image_HW, steel_HW = _strip_end(rng, image_HW)
    return image_HW, steel_HW


def expose(rng: Rng, image_HW: Field) -> Mask:
    """Apply the sensor: shot noise, read noise, clipping."""
    noise = rng.standard_normal((HEIGHT, WIDTH), np.float32)
    noisy = image_HW + noise * np.sqrt(np.maximum(image_HW, 0.0) * 0.03 + 0.8)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _light(rng: Rng) -> Field:
    level = log_uniform(rng, 48, 125)
    swing = uniform(rng, 0.05, 0.28)
    along = 1 + swing * profile(rng, WIDTH, log_uniform(rng, 300, 1200))
    tilt = uniform(rng, -0.18, 0.18)
    across = 1 + tilt * np.linspace(-1, 1, HEIGHT, dtype=np.float32)[:, None]
    image_HW: Field = (level * along * across).astype(np.float32)
    if chance(rng, 0.12):  # a lamp's reflection
        y = (np.arange(HEIGHT, dtype=np.float32)[:, None] / HEIGHT - uniform(rng, 0.4, 1.2)) * 2
        x = (np.arange(WIDTH, dtype=np.float32)[None] / WIDTH - uniform(rng, 0.1, 0.9)) * 3
        image_HW += uniform(rng, 40, 110) * np.exp(-(x * x) - y * y)
    return np.maximum(image_HW, 12).astype(np.float32)


def _streaks(rng: Rng) -> Field:
    """Bands along the image, from the rolls: broad, fine, and slowly changing."""
    field_HW = np.ones((HEIGHT, WIDTH), np.float32)
    field_HW += uniform(rng, 0.01, 0.07) * smooth_field(rng, HEIGHT, WIDTH, 400, 40)
    field_HW += uniform(rng, 0.01, 0.06) * smooth_field(rng, HEIGHT, WIDTH, 200, 9)
    field_HW += uniform(rng, 0.0, 0.03) * profile(rng, WIDTH, 2.5)
    for _ in range(whole(rng, 0, 5) if chance(rng, 0.3) else 0):  # soft single bands
        x, w = uniform(rng, 0, WIDTH), log_uniform(rng, 6, 60)
        band = np.exp(-(((np.arange(WIDTH, dtype=np.float32) - x) / w) ** 2))[None]
        field_HW *= 1 - uniform(rng, -0.15, 0.3) * band
    return field_HW


def _drips(rng: Rng) -> Field:
    """Water and oil that ran down: darker, sharp at the sides, long."""
    cell_x = log_uniform(rng, 8, 40)
    field_HW = smooth_field(rng, HEIGHT, WIDTH, log_uniform(rng, 60, 220), cell_x)
    field_HW += 0.35 * smooth_field(rng, HEIGHT, WIDTH, 14, 6)
    where = 1.2 * smooth_field(rng, HEIGHT, WIDTH, 500, 350)
    wet_HW = (field_HW + where > uniform(rng, 1.5, 2.6)).astype(np.uint8)
    return np.asarray(1 - uniform(rng, 0.08, 0.3) * soften(wet_HW, 3), np.float32)


def _tones(rng: Rng) -> Field:
    """Regions of a different shade with one clear border."""
    x = uniform(rng, 0, WIDTH)
    slope = uniform(rng, -1.2, 1.2)
    border = x + slope * np.arange(HEIGHT, dtype=np.float32)[:, None]
    border = border + 14 * smooth_field(rng, HEIGHT, 2, 60, 2)[:, :1]
    side_HW = (np.arange(WIDTH, dtype=np.float32)[None] > border).astype(np.uint8)
    return np.asarray(1 + uniform(rng, -0.22, 0.22) * soften(side_HW, 7), np.float32)


def _speckle(rng: Rng) -> Field:
    """A rough, salted texture in parts of the strip."""
    where = np.clip(smooth_field(rng, HEIGHT, WIDTH, 220, 260), 0, 2)
    grain = rng.standard_normal((HEIGHT // 2, WIDTH // 2), np.float32)
    grain = cv2.resize(grain, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.asarray(uniform(rng, 3, 12) * where * grain, np.float32)


def _fine_lines(rng: Rng) -> Field:
    """Faint, slightly bent grinding marks across the strip."""
    lines = smooth_field(rng, HEIGHT, WIDTH, 3, 180)
    return (uniform(rng, 0.8, 3.2) * lines).astype(np.float32)


def _grain(rng: Rng) -> Field:
    fine = rng.standard_normal((HEIGHT, WIDTH), np.float32)
    soft = cv2.GaussianBlur(fine, (5, 3), 0)
    return np.asarray(uniform(rng, 5, 11) * soft, np.float32)


def _plate(rng: Rng) -> Field:
    """The raised pattern of tread plate: rows of alternating bars, lit from one side."""
    relief_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    step = uniform(rng, 90, 130)
    offset, size = uniform(rng, 0, step), (int(step * 0.26), max(5, int(step * 0.075)))
    angle = uniform(rng, 35, 60)
    for row in range(-1, int(HEIGHT / step * 2) + 2):
        for column in range(-1, int(WIDTH / step) + 2):
            x = (column + 0.5 * (row % 2)) * step + offset
            turned = angle if row % 2 else 180 - angle
            center = (int(x), int(row * step / 2 + offset))
            cv2.ellipse(relief_HW, center, size, turned, 0, 360, 1, -1)
    height = soften(relief_HW, 7)
    lit = cv2.Sobel(height, cv2.CV_32F, 1, 0) - cv2.Sobel(height, cv2.CV_32F, 0, 1)
    return np.asarray(uniform(rng, 12, 28) * lit + 6 * height, np.float32)


def _strip_end(rng: Rng, image_HW: Field) -> tuple[Field, Mask]:
    """The strip ends inside the frame: a ragged bright edge, then darkness."""
    share = log_uniform(rng, 0.02, 0.55)
    edge = share * WIDTH + 5 * smooth_field(rng, HEIGHT, 2, 70, 2)[:, :1]
    edge += 1.2 * smooth_field(rng, HEIGHT, 2, 5, 2)[:, :1]
    x = np.arange(WIDTH, dtype=np.float32)[None]
    steel_HW = (x > edge).astype(np.uint8)
    rim = np.exp(-((x - edge - 8) ** 2) / uniform(rng, 30, 300)).astype(np.float32)
    rough = 0.5 + 0.5 * smooth_field(rng, HEIGHT, WIDTH, 6, 5)
    image_HW = image_HW + uniform(rng, 20, 90) * rim * rough
    if chance(rng, 0.5):
        image_HW, steel_HW = image_HW[:, ::-1].copy(), steel_HW[:, ::-1].copy()
    steel_HW = close(steel_HW, 2)
    dark = uniform(rng, 1, 5)
    return np.where(steel_HW == 1, image_HW, dark).astype(np.float32), steel_HW
