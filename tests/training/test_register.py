from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import EngineError
from steel_batch.lake import Lake
from steel_batch.registry.versions import load_engine
from tests.tiny_engine import tiny_version
from training.quantize import Verdict
from training.register import Product, register_product


def judged_on(digest: str, dice: float) -> Product:
    """The same network, judged on a test part of a digest."""
    card, graphs = tiny_version(metrics={"data_digest": digest, "kaggle_dice": dice})
    verdict = Verdict.without("the recipe excludes it.")
    return Product(card=card, graphs=graphs, verdict=verdict, test_dice=())


def test_a_version_that_is_made_again_keeps_its_first_card_and_report(tmp_path: Path) -> None:
    store, product = Lake(str(tmp_path)), judged_on("1a" * 32, 0.9)
    first = register_product(store, product, "first")
    later = dataclasses.replace(product.card, created="2027-01-01T00:00:00+00:00")
    assert register_product(store, dataclasses.replace(product, card=later), "later") == first
    assert store.read(layout.report_file("tiny", first.version)) == b"first"


def test_a_version_does_not_stand_with_figures_of_other_labels(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    first = register_product(store, judged_on("1a" * 32, 0.9), "first")
    with pytest.raises(EngineError) as refused:
        register_product(store, judged_on("2b" * 32, 0.8), "second")
    for part in (first.name, "1a" * 32, "2b" * 32, "another --seed"):
        assert part in str(refused.value)
    engine = load_engine(first.name, store=store)
    assert (engine.card, engine.read_report()) == (first, "first")
