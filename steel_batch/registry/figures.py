"""The figures of a card that this program knows.

`metrics` of a card may hold anything, since a version may come from another program than `train`.
Whoever shows or compares figures reads them through `known_figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

UNKNOWN: Final = "–"
_LARGEST: Final = 1 << 63
_OF_PART: Final[Mapping[str, Any]] = {
    "num_images": int,
    "kaggle_dice": float,
    "mean_iou": float,
    "data_digest": str,
    "classes": [
        {
            "num_present": int,
            "present_dice": float,
            "iou": float,
            "recall": float,
            "false_alarm_rate": float,
        }
    ],
    "confusion": [[int]],
    "calibration": [{"mean_peak": float, "share_present": float, "num_cases": int}],
}
_OF_GRAPH: Final = {"num_differing": int, "num_pixels": int}
_FORM: Final = {
    **_OF_PART,
    "validation": _OF_PART,
    "agreement": {"fp32": _OF_GRAPH, "fp16": _OF_GRAPH, "int8": _OF_GRAPH},
}
"""What `train` writes: types of values, lists of one kind, mappings by name."""


def known_figures(metrics: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The figures of a card in the form that `train` writes; what has another form is left out.

    Args:
        metrics: A card's metrics, or those of its validation part.
        classes: Names of the classes. Figures of another number of classes are left out.
    """
    found: dict[str, Any] = _fitting(_FORM, metrics)
    for part in (found, found.get("validation", {})):
        if len(part.get("classes", ())) != len(classes):
            part.pop("classes", None)
        sizes = [len(row) for row in part.get("confusion", ())]
        if sizes != [len(classes) + 1] * (len(classes) + 1):
            part.pop("confusion", None)
    return found


def as_text(value: float | None, num_digits: int = 3) -> str:
    """A figure with its digits after the point, or a dash if it is unknown."""
    return UNKNOWN if value is None else f"{value:.{num_digits}f}"


def _fitting(form: Any, value: Any) -> Any:
    """The part of a value that has a form; None if nothing of it has."""
    if isinstance(form, Mapping):
        if not isinstance(value, Mapping):
            return None
        parts = {name: _fitting(form[name], value[name]) for name in form if name in value}
        return {name: part for name, part in parts.items() if part is not None}
    if isinstance(form, list):
        if not isinstance(value, (list, tuple)):
            return None
        items = [_fitting(form[0], item) for item in value]
        return None if None in items else items
    if type(value) in (int, float) and abs(value) >= _LARGEST:
        return None
    if form is float and type(value) is int:
        return float(value)
    return value if type(value) is form else None
