"""The page of a version: its card, its training, its best and worst images."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.report.contact_sheet import COLORS_BGR
from steel_batch.report.engine_page import render_page
from training.dataset import Dataset
from training.judge import judge_images
from training.metrics import Judged
from training.register import Product
from training.session import open_session

NUM_PICTURES: Final = 6
"""Number of best images, and of worst images."""
WIDTH_PX: Final = 920
"""Width of pictures of wide images; others are at most `HEIGHT_PX` high."""
HEIGHT_PX: Final = 440
TRUTH_BGR: Final = (255, 255, 255)
HALO_BGR: Final = (0, 0, 0)
FEW_POINTS: Final = 12
"""Of a curve: each is marked, as the line between two of them says nothing."""
CURVES: Final = (
    ("loss", "loss"),
    ("validation_kaggle_dice", "Kaggle Dice on validation, threshold 0.5, no minimum areas"),
    ("validation_mean_iou", "mIoU on validation, threshold 0.5"),
    ("learning_rate", "learning rate"),
)
SHARES: Final = ("validation_kaggle_dice", "validation_mean_iou")
"""Curves of shares, whose axis begins at zero."""
PLOT_WIDTH, PLOT_HEIGHT = 440, 180
MARGIN: Final = 60
"""Space left of a plot for numbers; a third of it is below."""


def render_report(product: Product, test: Dataset, records: Sequence[Mapping[str, Any]]) -> str:
    """Render the page.

    Args:
        product: The version.
        test: The test part, which the card's figures are of.
        records: The reports of the training loop.
    """
    return render_page(
        product.card,
        training=_curves(records),
        images=f"<p>White in black: the truth. Coloured: what the engine marked, "
        f"{_legend(product.card.classes)}.</p>" + "".join(_pictures(product, test)),
    )


def _curves(records: Sequence[Mapping[str, Any]]) -> str:
    drawn = "".join(_curve(records, name, title) for name, title in CURVES)
    return f'<div class="images">{drawn}</div>' if drawn else ""


def _curve(records: Sequence[Mapping[str, Any]], name: str, title: str) -> str:
    points = [
        (record["step"], record[name])
        for record in records
        if name in record and np.isfinite(record[name])
    ]
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    ticks = _ticks(0.0 if name in SHARES else min(values), max(values))
    low, high = ticks[0], ticks[-1]
    left, bottom = MARGIN, PLOT_HEIGHT - MARGIN // 3

    def x_of(step: float) -> str:
        return f"{left + (PLOT_WIDTH - left - 5) * step / steps[-1]:.1f}"

    def y_of(value: float) -> str:
        return f"{bottom - (bottom - 10) * (value - low) / (high - low):.1f}"

    lines = "".join(
        f'<line x1="{left}" x2="{PLOT_WIDTH}" y1="{y_of(tick)}" y2="{y_of(tick)}" stroke="#ddd"/>'
        f'<text x="{left - 6}" y="{y_of(tick)}" dy="4" text-anchor="end">{tick:.4g}</text>'
        for tick in ticks
    )
    lines += "".join(
        f'<text x="{x_of(tick)}" y="{PLOT_HEIGHT - 4}" '
        f'text-anchor="{"end" if tick == steps[-1] else "middle"}">{tick:g}</text>'
        for tick in _ticks(0, steps[-1])
        if tick <= steps[-1]
    )
    line = " ".join(f"{x_of(step)},{y_of(value)}" for step, value in points)
    if len(points) <= FEW_POINTS:
        lines += "".join(
            f'<circle cx="{x_of(step)}" cy="{y_of(value)}" r="4" fill="#1565c0"/>'
            for step, value in points
        )
    return (
        f'<figure class="plot"><figcaption>{escape(title)}, by step; last {values[-1]:.4g}'
        "</figcaption>"
        f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" role="img" font-size="12" fill="#555">'
        f'{lines}<polyline points="{line}" fill="none" stroke="#1565c0" stroke-width="2"/>'
        "</svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers that enclose a range."""
    span = high - low or abs(high) or 1.0
    unit = 10.0 ** np.floor(np.log10(span))
    step = next(unit * part for part in (0.2, 0.5, 1.0, 2.0) if span <= unit * part * 5)
    first, last = np.floor(low / step), np.ceil(high / step)
    return [float(step * number) for number in np.arange(first, max(last, first + 1) + 1)]


def _legend(classes: Sequence[str]) -> str:
    return ", ".join(
        f'<span style="color:rgb({r},{g},{b});background:#111;padding:0 .3em">{escape(name)}</span>'
        for name, (b, g, r) in zip(classes, COLORS_BGR, strict=False)
    )


def _pictures(product: Product, test: Dataset) -> Iterator[str]:
    """Yield the worst and the best images with true and predicted defects."""
    rated = sorted(
        (dice, index) for index, dice in enumerate(product.test_dice) if dice is not None
    )
    worst = rated[:NUM_PICTURES]
    best = rated[NUM_PICTURES:][::-1][:NUM_PICTURES]
    card = product.card
    session = open_session(product.graphs["fp32"])
    for title, chosen in (("Worst", worst), ("Best", best)):
        if not chosen:
            continue
        yield f'<h3>{title}</h3><div class="images">'
        for dice, index in chosen:
            one = test.subset([index])
            (judged,) = judge_images(session, one, card.post_process, card.height, card.width)
            data = base64.b64encode(_png(one.load(0)[0], judged, len(card.classes))).decode()
            key = escape(one.examples[0].key)
            true, marked = (
                escape(_classes_on(bitmask_HW, card.classes))
                for bitmask_HW in (judged.truth_HW, judged.predicted_HW)
            )
            yield (
                f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{key}: Dice '
                f"{dice:.3f}; true: {true}; marked: {marked}</figcaption></figure>"
            )
        yield "</div>"


def _classes_on(bitmask_HW: npt.NDArray[np.uint8], classes: Sequence[str]) -> str:
    bits = int(np.bitwise_or.reduce(bitmask_HW, axis=None))
    return ", ".join(name for c, name in enumerate(classes) if bits >> c & 1) or "nothing"


def _png(image_HW: npt.NDArray[np.uint8], judged: Judged, num_classes: int) -> bytes:
    """Draw an image at its display size; lines are drawn after scaling, so that none gets thin."""
    height, width = image_HW.shape
    scale = min(WIDTH_PX / width, HEIGHT_PX / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    least = 1 if scale < 1 else 128  # keeps thin masks when the image shrinks
    picture = cv2.cvtColor(cv2.resize(image_HW, size, interpolation=shrink), cv2.COLOR_GRAY2BGR)
    drawn: list[tuple[Any, tuple[int, int, int], int]] = []
    for bitmask_HW, is_truth in ((judged.truth_HW, True), (judged.predicted_HW, False)):
        for c in range(num_classes):
            mask_HW = bitmask_HW >> np.uint8(c) & np.uint8(1)
            shown_HW = cv2.resize(mask_HW * np.uint8(255), size, interpolation=shrink)
            edges, _ = cv2.findContours(
                (shown_HW >= least).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
            )
            if is_truth:  # white in black: seen on a bright strip too
                drawn += [(edges, HALO_BGR, 5), (edges, TRUTH_BGR, 2)]
            else:
                drawn.append((edges, COLORS_BGR[c], 1))
    for edges, color, thickness in drawn:
        cv2.drawContours(picture, edges, -1, color, thickness)
    return bytes(cv2.imencode(".png", picture)[1])
