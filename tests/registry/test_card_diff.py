from __future__ import annotations

import dataclasses
from typing import Any

from steel_batch.registry.card import Card
from steel_batch.registry.card_diff import differences, judged_on_the_same
from tests.tiny_engine import tiny_version

CLASSES = ("pits", "lines", "scratches", "scabs")


def card(**changes: Any) -> Card:
    made, _ = tiny_version()
    return dataclasses.replace(made, classes=CLASSES, **changes)


def shown(a: Card, b: Card) -> dict[str, tuple[Any, Any]]:
    return {one.name: (one.a, one.b) for one in differences(a, b)}


def test_equal_cards_have_no_differences() -> None:
    assert differences(card(), card()) == []


def test_settings_files_figures_and_recipe_are_named_where_they_differ() -> None:
    a, b = tiny_version(min_area_px=4)[0], tiny_version(precisions=("fp32", "fp16"))[0]
    metrics = {"kaggle_dice": 0.9, "classes": [{"recall": 0.5}] * 4, "confusion": [[1]]}
    better = {"kaggle_dice": 0.9, "classes": [{"recall": r} for r in (0.5, 0.7, 0.5, 0.5)]}
    a = dataclasses.replace(
        a, metrics=metrics, recipe={"model": {"encoder": "resnet18"}, "seed": 0}
    )
    b = dataclasses.replace(b, metrics=better, recipe={"model": {"encoder": "resnet34"}, "seed": 0})
    b = dataclasses.replace(b, height=128, notes=("quick",))
    fp16 = b.graph("fp16")
    assert list(shown(a, b).items()) == [
        ("input", ("64×160", "128×160")),
        *((f"min_area_px.band_{c}", (4, 0)) for c in (1, 2, 3, 4)),
        ("graphs.fp16", (None, f"model_fp16.onnx {fp16.sha256[:12]}")),
        ("metrics.band_2.recall", (0.5, 0.7)),
        ("recipe.model.encoder", ("resnet18", "resnet34")),
        ("notes", ([], ["quick"])),
    ]


def test_classes_are_compared_by_name_and_their_order_is_a_difference() -> None:
    a = card(thresholds=(0.5, 0.6, 0.7, 0.8))
    b = dataclasses.replace(a, classes=CLASSES[::-1], thresholds=(0.8, 0.7, 0.6, 0.5))
    assert list(shown(a, b)) == ["classes"]


def test_classes_of_one_name_are_told_apart_by_their_numbers() -> None:
    a = dataclasses.replace(card(), classes=("pits", "scabs", "pits", "lines"))
    b = dataclasses.replace(a, thresholds=(0.5, 0.5, 0.9, 0.5))
    assert shown(a, b) == {"thresholds.pits (3)": (0.5, 0.9)}


def test_figures_compare_only_if_both_are_of_the_same_images() -> None:
    first, second = card(metrics={"data_digest": "aa"}), card(metrics={"data_digest": "bb"})
    assert judged_on_the_same(first, first)
    assert not judged_on_the_same(first, second)
    assert not judged_on_the_same(card(), card())
