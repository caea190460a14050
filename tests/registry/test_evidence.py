from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.registry.evidence import MIN_CASES, class_figures, headline, too_few
from steel_batch.registry.versions import load_engine


def figures(num_images: int, *num_present: int) -> dict[str, Any]:
    return {
        "num_images": num_images,
        "kaggle_dice": 0.83333,
        "mean_iou": 0.33,
        "classes": [
            {
                "num_present": num, "present_dice": 0.0 if num else None,
                "iou": 0.0 if num else None, "recall": 0.0 if num else None,
                "false_alarm_rate": 0.25 if num < num_images else None,
            }
            for num in num_present
        ],
    }  # fmt: skip


def test_three_images_are_too_few_whatever_their_dice() -> None:
    said = headline(figures(3, 1, 0), ("pits", "lines"))
    assert said == (
        "too few to compare (pits on 1, lines on 0: 20 with and 20 without each class are needed)"
    )


@pytest.mark.parametrize(
    ("num_images", "num_present", "lack"),
    [
        (40, 20, None),
        (39, 20, "19 without pits"),
        (39, 19, "pits on 19"),
        (900, 19, "pits on 19"),
        (900, 900, "0 without pits"),
        (900, 20, None),
    ],
)
def test_each_class_needs_twenty_images_with_it_and_twenty_without(
    num_images: int, num_present: int, lack: str | None
) -> None:
    found = too_few(figures(num_images, num_present), ("pits",))
    needed = "20 with and 20 without each class are needed"
    assert found == (None if lack is None else f"{lack}: {needed}")


@given(num_images=st.integers(1, 99), num_present=st.integers(0, 99))
def test_a_figure_is_shown_where_it_stands_on_enough_images_and_only_there(
    num_images: int, num_present: int
) -> None:
    num_present = min(num_images, num_present)
    (row,) = class_figures(figures(num_images, num_present), ("pits",))
    for text, num_cases, figure in (
        (row.present_dice, num_present, "0.000"),
        (row.recall, num_present, "0.000"),
        (row.iou, num_present, "0.000"),
        (row.false_alarm_rate, num_images - num_present, "0.250"),
    ):
        if num_cases == 0:
            assert text == "–"
        else:
            assert text == (figure if num_cases >= MIN_CASES else "too few")
    is_enough = min(num_present, num_images - num_present) >= MIN_CASES
    assert headline(figures(num_images, num_present), ("pits",)).startswith(
        "Kaggle Dice 0.8333, mIoU 0.3300" if is_enough else "too few to compare ("
    )


@pytest.mark.parametrize("entries", [None, [], [{}, {}], [{}], ["?"]])
def test_a_card_that_does_not_say_how_many_images_is_shown_as_it_is(entries: Any) -> None:
    foreign = {"kaggle_dice": 0.5, "mean_iou": 0.5, "classes": entries}
    assert headline(foreign, ("pits",)) == "Kaggle Dice 0.5000, mIoU 0.5000"
    (row,) = class_figures(foreign, ("pits",))
    assert (row.name, row.images, row.recall) == ("pits", "–", "–")


def test_the_shipped_engine_was_judged_on_enough_images() -> None:
    card = load_engine("demo", store=None).card
    assert too_few(card.metrics, card.classes) is None
