from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steel_batch.lake import Lake
from steel_batch.report.cleaned import cleaned
from steel_batch.report.contact_sheet import COLORS_BGR
from steel_batch.report.engine_page import _document
from tests.browser import ask_page, faint_texts, needs_browser, num_near, photograph
from tests.tiny_engine import tiny_version
from tests.training.bands import open_bands
from training.dataset import Dataset
from training.judge import judge
from training.metrics import Judged, image_dice
from training.quantize import Verdict
from training.register import Product
from training.report import TRUTH_BGR, _png, render_report
from training.session import open_session

EVIL = '"><script>document.title = "owned"</script>'
RECORDS = [
    record
    for step in range(1, 9)
    for record in (
        {"step": 10 * step, "loss": 1 / step, "learning_rate": 1e-3 / step},
        {"step": 10 * step, "validation_kaggle_dice": 0.9, "validation_mean_iou": step / 10},
    )
]
LINE_BGR = (192, 101, 21)
"""Of the curves."""
Render = Callable[..., str]


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Makes the page of the tiny engine on bands; its brighter class is found twice."""
    test = open_bands(Lake(str(tmp_path_factory.mktemp("bands"))), num_images=24)
    product = judged_product(test)
    usual = render_report(product, test, RECORDS)

    def made(records: list[dict[str, Any]] | None = None, **changes: Any) -> str:
        if records is None and not changes:
            return usual
        card = dataclasses.replace(product.card, **changes)
        return render_report(dataclasses.replace(product, card=card), test, records or RECORDS)

    return made


def judged_product(test: Dataset) -> Product:
    card, graphs = tiny_version(num_classes=2)
    dice: list[float | None] = []
    figures = judge(
        open_session(graphs["fp32"]), test, card.post_process, card.height, card.width,
        lambda judged: dice.append(image_dice(judged, 2)),
    )  # fmt: skip
    metrics = {**dataclasses.asdict(figures), "data_digest": test.digest}
    card = dataclasses.replace(card, metrics=metrics, recipe={"seed": 3})
    verdict = Verdict.without("the recipe excludes it.")
    return Product(card=card, graphs=graphs, verdict=verdict, test_dice=tuple(dice))


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        for data in found
    ]
    return [image_HWC for image_HWC in decoded if image_HWC is not None]


def test_the_page_has_the_card_curves_and_the_worst_images_before_the_best(render: Render) -> None:
    text = render()
    for title in ("Classes", "Confusion", "Calibration", "Training", "Images", "Files", "Recipe"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("<polyline") == 4
    shown = [float(dice) for dice in re.findall(r"png: Dice (\d\.\d+)", text)]
    worst, best = shown[:6], shown[6:]
    assert worst == sorted(worst)
    assert best == sorted(best, reverse=True)
    assert max(worst) <= min(best)
    said = re.findall(r"true: [^<]*", text)
    assert (
        said == ["true: band_2; marked: band_1, band_2"] * 6 + ["true: band_1; marked: band_1"] * 6
    )


def test_outlines_of_truth_and_answer_are_drawn_at_the_size_that_is_shown(render: Render) -> None:
    found = pictures(render())
    assert len(found) == 12
    for picture_HWC in found:
        assert picture_HWC.shape == (368, 920, 3), "64×160 is enlarged to the page's width"
    worst_HWC = found[0]
    for color in (TRUTH_BGR, COLORS_BGR[0], COLORS_BGR[1]):
        assert (worst_HWC == color).all(axis=2).sum() > 100


def test_a_curve_needs_two_finite_points(render: Render) -> None:
    records = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}]
    text = render(records)
    assert "<polyline" not in text
    assert "<h2>Training</h2>" not in text
    same = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": float("inf")}]
    assert render(same).count("<polyline") == 1


def test_the_points_of_a_short_curve_are_marked(render: Render) -> None:
    two = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert render(two).count("<circle") == 2
    many = [{"step": step, "loss": 1 / step} for step in range(1, 40)]
    assert "<circle" not in render(many)


def test_axes_of_shares_begin_at_zero_and_steps_end_with_the_last(render: Render) -> None:
    dice = [
        {"step": step, "validation_kaggle_dice": 0.9 + step / 10_000} for step in range(10, 101, 10)
    ]
    numbers = re.findall(r"<text[^>]*>([^<]+)</text>", render(dice))
    assert numbers == ["0", "0.2", "0.4", "0.6", "0.8", "1", "0", "20", "40", "60", "80", "100"]


@needs_browser
@pytest.mark.parametrize("is_dark", [True, False], ids=["dark", "light"])
def test_every_text_can_be_read_in_the_readers_scheme(
    render: Render, tmp_path: Path, is_dark: bool
) -> None:
    page = render()
    assert faint_texts(page, tmp_path, is_dark=is_dark) == []
    stored = cleaned(page.replace("<svg", '<svg fill="#333" stroke="#333"'))
    assert faint_texts(_document(tiny_version()[0], stored), tmp_path, is_dark=is_dark) == []


@pytest.mark.parametrize("level", [0, 128, 255])
def test_the_outline_of_the_truth_can_be_seen_on_any_strip(level: int) -> None:
    truth_HW = np.zeros((64, 160), np.uint8)
    truth_HW[20:40, 50:100] = 1
    judged = Judged(truth_HW=truth_HW, predicted_HW=np.zeros_like(truth_HW))
    data = _png(np.full((64, 160), level, np.uint8), judged, 1)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    assert (np.abs(found.astype(int) - level).max(axis=2) > 90).sum() > 500


@needs_browser
@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_all_of_it_within_its_width(
    render: Render, tmp_path: Path, width: int
) -> None:
    seen = ask_page(
        render(classes=(EVIL, "b&b"), notes=(EVIL,)),
        tmp_path,
        """{
            title: document.title,
            heading: document.querySelector("h1").textContent,
            cell: document.querySelector("table:not(.facts) td").textContent,
            too_wide: document.documentElement.scrollWidth - innerWidth,
            images: [...document.images].map(image => image.naturalWidth),
            overflowing: [...document.images].filter(
                image => image.getBoundingClientRect().right > innerWidth).length,
            curves: [...document.querySelectorAll("polyline")].map(line => {
                const box = line.getBBox(), plot = line.ownerSVGElement.viewBox.baseVal;
                return box.width > 0 && box.x >= 0 && box.x + box.width <= plot.width
                    && box.y >= 0 && box.y + box.height <= plot.height;
            }),
            least_text: (document.body.style.width = "368px", Math.min(
                ...[...document.querySelectorAll("svg text")].map(
                    text => text.getBoundingClientRect().height))),
            fetched: performance.getEntriesByType("resource")
                .filter(entry => !entry.name.startsWith("data:")).length,
        }""",
        width=width,
    )
    assert seen["title"] == seen["heading"] != "owned"
    assert seen["cell"] == EVIL
    assert seen["too_wide"] <= 0
    assert seen["images"] == [920] * 12
    assert seen["overflowing"] == 0
    assert seen["curves"] == [True] * 4
    assert seen["least_text"] >= 11, "numbers can be read on a telephone of 400 px"
    assert seen["fetched"] == 0


@needs_browser
def test_no_table_is_cut_in_print(render: Render, tmp_path: Path) -> None:
    overhang = """(() => {
        for (const rule of document.styleSheets[0].cssRules)
            if (rule.media?.mediaText === "print") rule.media.mediaText = "all";
        document.body.style.width = "718px";  // A4 between Chromium's margins
        return [...document.querySelectorAll(".wide")].map(
            part => part.scrollWidth - document.body.clientWidth);
    })()"""
    seen = ask_page(render(), tmp_path, overhang)
    assert len(seen) >= 4
    assert max(seen) <= 0


@needs_browser
def test_a_browser_paints_curves_and_outlines(render: Render, tmp_path: Path) -> None:
    painted_HWC = photograph(render(), tmp_path)
    for color, least in ((LINE_BGR, 500), (COLORS_BGR[0], 100)):
        assert num_near(painted_HWC, color) > least
