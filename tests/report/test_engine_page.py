from __future__ import annotations

import dataclasses
from pathlib import Path

from steel_batch.lake import Lake
from steel_batch.registry.registration import register
from steel_batch.registry.versions import load_engine
from steel_batch.report.engine_page import page_of, render_page, table
from tests.tiny_engine import tiny_version


def test_the_demo_engines_page_says_what_its_card_says() -> None:
    engine = load_engine("demo", store=None)
    card, text = engine.card, page_of(engine)
    for part in (
        card.name, card.created, *card.classes, "256×1600 pixels of gray",
        "(gray / 255 − 0.5) / 0.25, inside the graph", "902 held-out images",
        f"Kaggle Dice <b>{card.metrics['kaggle_dice']:.4f}</b>", card.metrics["data_digest"],
        card.graphs[0].sha256, "<td>0.7</td>", "<td>1,200</td>", "narrow16",
        card.environment["commit"], card.notes[1],
    ):  # fmt: skip
        assert part in text
    assert [text.count(f"<h2>{name}</h2>") for name in ("Confusion", "Calibration")] == [1, 1]
    assert "<h2>Images</h2>" not in text


def test_a_card_without_figures_has_a_page_too() -> None:
    card, _ = tiny_version()
    text = render_page(card)
    assert "band_1" in text
    assert "<h2>Confusion</h2>" not in text
    assert "<h2>Recipe</h2>" not in text


def test_the_report_of_a_training_goes_before_the_cards_own_page(tmp_path: Path) -> None:
    store = Lake(str(tmp_path / "store"))
    card, graphs = tiny_version()
    register(store, card, graphs)
    engine = load_engine(card.name, store=store)
    assert engine.read_report() is None
    assert page_of(engine) == render_page(card)
    store.write(f"registry/tiny/{card.version}/report.html", b"<p>curves</p>")
    assert page_of(engine) == "<p>curves</p>"


def test_what_a_card_names_is_escaped() -> None:
    card, _ = tiny_version()
    evil = "<script>alert(1)</script>"
    text = render_page(
        dataclasses.replace(
            card, classes=(evil, "b", "c", "d"), notes=(evil,), recipe={"data": {"images": evil}},
            metrics={"confusion": [[1] * 5] * 5},
        )
    )  # fmt: skip
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 5


def test_cells_are_shaded_by_their_share() -> None:
    text = table(("truth", "a", "b"), [["x", 1, 2]], [[0.0, 1.0]])
    assert "<td>1</td>" in text
    assert '<td style="background:rgba(21,101,192,0.50)">2</td>' in text
