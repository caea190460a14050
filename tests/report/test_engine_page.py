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
    store.write(f"registry/tiny/{card.version}/report.html", b"<title>x</title><p>curves</p>")
    text = page_of(engine)
    assert "<p>curves</p></html>" in text
    assert "<title>x</title>" not in text


def test_a_page_of_the_registry_is_shown_and_not_passed_on(tmp_path: Path) -> None:
    """Who may write the registry may write any page there."""
    store = Lake(str(tmp_path / "store"))
    card, graphs = tiny_version()
    register(store, card, graphs)
    evil = '<p>curves</p><script src="https://elsewhere/x.js"></script><meta http-equiv="refresh">'
    store.write(f"registry/tiny/{card.version}/report.html", evil.encode())
    text = page_of(load_engine(card.name, store=store))
    assert "<p>curves</p>" in text
    assert not [part for part in ("script", "elsewhere", "refresh") if part in text]


def test_every_page_states_that_it_runs_and_loads_nothing() -> None:
    card, _ = tiny_version()
    for text in (render_page(card), page_of(load_engine("demo", store=None))):
        head, _, _ = text.partition("<style>")
        assert 'http-equiv="Content-Security-Policy" content="default-src \'none\';' in head
        assert "script-src" not in head


def test_control_characters_of_a_card_are_written_as_escapes() -> None:
    card, _ = tiny_version()
    text = render_page(dataclasses.replace(card, notes=("a\x1b[31mb\u202ec",)))
    assert "a\\x1b[31mb\\u202ec" in text


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
