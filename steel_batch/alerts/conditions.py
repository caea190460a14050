"""Conditions such as ``defect_rate["scratches"] > 0.2``, and whether a run meets them."""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from steel_batch.errors import ConfigError, SteelBatchError

DRIFT: Final = "drift"
FAILED: Final = "failed"
DEFECT_RATE: Final = "defect_rate"
QUARANTINED: Final = "quarantined"
IMAGES: Final = "images"
_SHARE: Final = (1.0, "a share from 0 to 1, such as 0.05 for 5 %")
_LIMITS: Final = {
    QUARANTINED: _SHARE,
    DEFECT_RATE: _SHARE,
    IMAGES: (sys.float_info.max, "a number of images, such as 1000"),
}
"""The figures that are numbers: the greatest value of each, and what it is."""
_COMPARISONS: Final = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_PATTERN: Final = re.compile(
    r"""\s*(?P<name>\w+)\s*(?:\[\s*(?P<quote>["'])(?P<class_name>.+)(?P=quote)\s*\])?\s*"""
    r"(?:(?P<comparison>>=|<=|>|<)\s*(?P<limit>\d+(?:\.\d*)?(?:e-?\d+)?|\.\d+)\s*)?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What is to be told of."""

    text: str
    """As the user wrote it."""
    name: str
    class_name: str | None = None
    comparison: str | None = None
    limit: float = 0.0


class Figures(Protocol):
    """What conditions are about: one date of one engine.

    Reading any of them may raise `SteelBatchError`; the others may still be readable.
    """

    @property
    def images(self) -> int:
        """Images that were scored."""

    @property
    def quarantined(self) -> float:
        """Share of all images of the date."""

    @property
    def defect_rates(self) -> Mapping[str, float]:
        """By class."""

    @property
    def drifts(self) -> Sequence[str]:
        """In words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What checking conditions found."""

    alerts: tuple[str, ...] = ()
    """Sentences: one for each condition that is met, and one for each reason why some could not be
    checked."""
    is_complete: bool = True
    """Whether every condition could be checked."""


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConfigError: It is none, its limit is out of range, or no date can meet it.
    """
    match = _PATTERN.fullmatch(text)
    name = match["name"] if match else ""
    is_number = name in _LIMITS
    if (
        match is None
        or not (is_number or name in (DRIFT, FAILED))
        or bool(match["comparison"]) != is_number
        or bool(match["class_name"]) != (name == DEFECT_RATE)
    ):
        raise ConfigError(
            f"{text!r} is no condition: expected drift, failed, quarantined > 0.005, images < 1000 "
            'or defect_rate["scratches"] > 0.2 (also with >=, <, <=).'
        )
    condition = Condition(
        text=text.strip(), name=name, class_name=match["class_name"],
        comparison=match["comparison"], limit=float(match["limit"] or 0),
    )  # fmt: skip
    if is_number:
        _check_limit(condition)
    return condition


def _check_limit(condition: Condition) -> None:
    greatest, expected = _LIMITS[condition.name]
    can_be_met = any(_compare(condition, value) for value in (0.0, greatest))
    if condition.limit > greatest or not can_be_met:
        raise ConfigError(
            f"{condition.text!r} has the limit {condition.limit:g}: expected {expected}, with "
            "which the condition can be met."
        )


def _compare(condition: Condition, value: float) -> bool:
    return bool(_COMPARISONS[condition.comparison or ">"](value, condition.limit))


def check_classes(conditions: Sequence[Condition], classes: Sequence[str]) -> None:
    """Refuse conditions about classes that an engine does not have.

    Raises:
        ConfigError: One is.
    """
    for condition in conditions:
        if condition.class_name is not None and condition.class_name not in classes:
            raise ConfigError(
                f"{condition.text!r} is about a class that the engine does not have; it has "
                f"{', '.join(classes)}."
            )


def check(conditions: Sequence[Condition], figures: Figures) -> Checked:
    """Check a run; a condition that cannot be checked is an alert and stops no other."""
    alerts: list[str] = []
    unchecked: dict[str, list[str]] = {}
    for condition in conditions:
        try:
            alerts += _alerts_of(condition, figures)
        except (SteelBatchError, OSError) as error:
            unchecked.setdefault(str(error), []).append(condition.text)
    alerts += [
        f"could not be checked: {', '.join(texts)}: {message}"
        for message, texts in unchecked.items()
    ]
    return Checked(alerts=tuple(alerts), is_complete=not unchecked)


def failure_alerts(conditions: Sequence[Condition], message: str) -> list[str]:
    """What a run that failed is to be told of."""
    return [f"failed: {message}" for c in conditions if c.name == FAILED][:1]


def _alerts_of(condition: Condition, figures: Figures) -> list[str]:
    if condition.name == FAILED:
        return []  # a run that ended has not failed
    if condition.name == DRIFT:
        return [f"drift: {sentence}" for sentence in figures.drifts]
    value = _value(condition, figures)
    return [f"{condition.text}: it is {value:.6g}."] if _compare(condition, value) else []


def _value(condition: Condition, figures: Figures) -> float:
    if condition.class_name is not None:
        return figures.defect_rates.get(condition.class_name, 0.0)
    return float(figures.images) if condition.name == IMAGES else figures.quarantined
