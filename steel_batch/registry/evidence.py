"""Whether figures come from enough held-out images to be compared, and how they are shown.

Kaggle Dice counts an image without a class as 1 if nothing was predicted on it. So an engine that
finds nothing scores high on a few clean images, and one image more or less moves every other figure
as much as two engines differ. Hence at least `MIN_CASES` images with each class, and as many
without, are required: for a share observed on 20 images, the 95 % interval extends at most 0.22 to
either side, and if none of 20 failed, at most 14 % of all images do. A tenth of Severstal's 12,568
images, which `train` holds out, has 25 with the rarest class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steel_batch.registry.figures import UNKNOWN, as_text, known_figures

MIN_CASES: Final = 20
"""Minimum number of images with a class, and of images without it."""
TOO_FEW: Final = "too few"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """The figures of one class as texts: a number, ``too few``, or a dash if there are no cases."""

    name: str
    images: str
    """Number of images with the class."""
    present_dice: str
    iou: str
    recall: str
    false_alarm_rate: str


def too_few(figures: Mapping[str, Any], classes: Sequence[str]) -> str | None:
    """What is missing for figures to be comparable, as a clause; None if nothing is missing.

    Args:
        figures: A card's metrics, or those of its validation part.
        classes: Names of the classes.

    Returns:
        Such as ``pits on 1, lines on 0: 20 with and 20 without each class are needed``.
        None also for a card that does not state how many images have a class.
    """
    lacks = []
    for name, _, num_present, num_absent in _of_classes(figures, classes):
        if num_present is not None and num_present < MIN_CASES:
            lacks.append(f"{name} on {num_present}")
        elif num_absent is not None and num_absent < MIN_CASES:
            lacks.append(f"{num_absent} without {name}")
    if not lacks:
        return None
    return f"{', '.join(lacks)}: {MIN_CASES} with and {MIN_CASES} without each class are needed"


def headline(figures: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Kaggle Dice and mIoU, or that there are too few images for them."""
    lack = too_few(figures, classes)
    if lack is not None:
        return f"too few to compare ({lack})"
    known = known_figures(figures, classes)
    dice, iou = (as_text(known.get(name), 4) for name in ("kaggle_dice", "mean_iou"))
    return f"Kaggle Dice {dice}, mIoU {iou}"


def class_figures(figures: Mapping[str, Any], classes: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class; those from too few images are left out."""
    rows = []
    for name, entry, num_present, num_absent in _of_classes(figures, classes):
        rows.append(
            ClassFigures(
                name=name,
                images=UNKNOWN if num_present is None else f"{num_present:,}",
                present_dice=_text(entry.get("present_dice"), num_present),
                iou=_text(entry.get("iou"), num_present),
                recall=_text(entry.get("recall"), num_present),
                false_alarm_rate=_text(entry.get("false_alarm_rate"), num_absent),
            )
        )
    return rows


def _of_classes(
    figures: Mapping[str, Any], classes: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any], int | None, int | None]]:
    """Yield each class's name and figures, and the numbers of images with it and without it.

    The figures are empty and the numbers None if the card does not state them.
    """
    known = known_figures(figures, classes)
    num_images = known.get("num_images")
    for name, entry in zip(classes, known.get("classes") or [{}] * len(classes), strict=True):
        num_present = entry.get("num_present")
        if num_images is None or num_present is None:
            yield name, entry, None, None
        else:
            yield name, entry, num_present, num_images - num_present


def _text(share: float | None, num_cases: int | None) -> str:
    if share is None:
        return UNKNOWN
    return TOO_FEW if num_cases is not None and num_cases < MIN_CASES else as_text(share)
