"""The page about one version: how training went, how good it is, its best and worst images.

One HTML file without scripts or anything from elsewhere; what came from users is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from steel_batch.contact_sheet import COLORS_BGR
from training.dataset import Dataset
from training.export import open_session
from training.judge import judge_images
from training.metrics import Judged
from training.register import Product

NUM_PICTURES: Final = 6
"""Of the best, and as many of the worst."""
MOST_WIDTH_PX: Final = 900
TRUTH_BGR: Final = (255, 255, 255)
STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;
border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
figure{margin:1em 0}figcaption{color:#555}img,svg{max-width:100%}
pre{background:#f5f5f5;padding:1em;overflow:auto}h2{margin-top:2em}
"""
CURVES: Final = (
    ("loss", "loss"),
    ("validation_kaggle_dice", "Kaggle Dice on validation, threshold 0.5, no minimum areas"),
    ("validation_mean_iou", "mIoU on validation, threshold 0.5"),
    ("learning_rate", "learning rate"),
)


def render_report(product: Product, test: Dataset, records: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        product: The version.
        test: What the figures in its card are of.
        records: What the training loop reported.
    """
    card = product.card
    figures = card.metrics
    parts = [
        f"<h1>{escape(card.name)}</h1>",
        f"<p>Made {escape(card.created)}. Judged on {figures['num_images']} held-out images: "
        f"Kaggle Dice <b>{figures['kaggle_dice']:.4f}</b>, mIoU <b>{figures['mean_iou']:.4f}</b>."
        "</p>",
        *(f"<p>{escape(note)}</p>" for note in card.notes),
        "<h2>Classes</h2>",
        _classes(product),
        "<h2>Confusion</h2><p>Share of the true pixels of a row that were given to a column.</p>",
        _confusion(("background", *card.classes), figures["confusion"]),
        "<h2>Calibration</h2>",
        _calibration(figures["calibration"]),
        "<h2>Training</h2>",
        *(_curve(records, name, title) for name, title in CURVES),
        "<h2>Images</h2><p>White: the truth. Coloured: what the engine marked, "
        f"{_legend(card.classes)}.</p>",
        *_pictures(product, test),
        "<h2>Recipe</h2>",
        f"<pre>{escape(json.dumps(dict(card.recipe), indent=1, sort_keys=True))}</pre>",
        "<h2>Environment</h2>",
        f"<pre>{escape(json.dumps(dict(card.environment), indent=1, sort_keys=True))}</pre>",
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(card.name)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def _classes(product: Product) -> str:
    card = product.card
    rows = []
    for c, entry in enumerate(card.metrics["classes"]):
        rows.append(
            [
                card.classes[c],
                entry["num_present"],
                *(_share(entry[key]) for key in ("present_dice", "iou", "recall",
                                                 "false_alarm_rate")),
                card.thresholds[c],
                card.post_process.min_area_px[c],
            ]
        )  # fmt: skip
    titles = ("class", "images", "Dice where present", "IoU", "recall", "false alarms",
              "threshold", "min. area")  # fmt: skip
    return _table(titles, rows)


def _confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row)
        rows.append([name, *(_share(count / total if total else None) for count in row), total])
    return _table(("truth", *names, "pixels"), rows)


def _calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    rows = [[f"{b['mean_peak']:.3f}", f"{b['share_present']:.3f}", b["num_cases"]] for b in bins]
    return _table(("mean peak", "share with the class", "images × classes"), rows)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _curve(records: Sequence[Mapping[str, Any]], name: str, title: str) -> str:
    points = [(record["step"], record[name]) for record in records if name in record]
    if len(points) < 2:
        return ""
    width, height, margin = 860, 200, 50
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    xy = " ".join(
        f"{margin + (width - margin) * step / steps[-1]:.1f},"
        f"{height - 20 - (height - 40) * (value - low) / span:.1f}"
        for step, value in points
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {width} {height}" '
        f'role="img"><polyline points="{xy}" fill="none" stroke="#1565c0" stroke-width="2"/>'
        f'<g font-size="12" fill="#555"><text x="0" y="24">{high:.4g}</text>'
        f'<text x="0" y="{height - 20}">{low:.4g}</text>'
        f'<text x="{width}" y="{height - 2}" text-anchor="end">step {steps[-1]}</text></g>'
        "</svg></figure>"
    )


def _legend(classes: Sequence[str]) -> str:
    return ", ".join(
        f'<span style="color:rgb({r},{g},{b});background:#333;padding:0 .3em">{escape(name)}</span>'
        for name, (b, g, r) in zip(classes, COLORS_BGR, strict=False)
    )


def _pictures(product: Product, test: Dataset) -> Iterator[str]:
    """The best and the worst images with what is and what was found on them."""
    rated = sorted(
        (dice, index) for index, dice in enumerate(product.test_dice) if dice is not None
    )
    worst = rated[:NUM_PICTURES]
    best = rated[NUM_PICTURES:][::-1][:NUM_PICTURES]
    card = product.card
    session = open_session(product.graphs["fp32"])
    for title, chosen in (("Worst", worst), ("Best", best)):
        yield f"<h3>{title}</h3>"
        for dice, index in chosen:
            one = test.subset([index])
            (judged,) = judge_images(session, one, card.post_process, card.height, card.width)
            data = base64.b64encode(_png(one.load(0)[0], judged, len(card.classes))).decode()
            yield (
                f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>'
                f"{escape(one.examples[0].key)}: Dice {dice:.3f}</figcaption></figure>"
            )


def _png(image_HW: npt.NDArray[np.uint8], judged: Judged, num_classes: int) -> bytes:
    picture = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2BGR)
    for bitmask_HW, is_truth in ((judged.truth_HW, True), (judged.predicted_HW, False)):
        for c in range(num_classes):
            mask_HW = bitmask_HW >> np.uint8(c) & np.uint8(1)
            edges, _ = cv2.findContours(mask_HW, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, edges, -1, TRUTH_BGR if is_truth else COLORS_BGR[c], 1)
    if picture.shape[1] > MOST_WIDTH_PX:
        height = round(picture.shape[0] * MOST_WIDTH_PX / picture.shape[1])
        picture = cv2.resize(picture, (MOST_WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".png", picture)[1])
