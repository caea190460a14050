"""Conditions mean what they say, and what is none is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from steel_batch.alerts.conditions import (
    check,
    check_classes,
    failure_alerts,
    parse_condition,
)
from steel_batch.errors import ConfigError, LakeError


@dataclass(frozen=True)
class Fixed:
    """Figures that are known."""

    images: int = 1000
    quarantined: float = 0.01
    defect_rates: Mapping[str, float] = field(
        default_factory=lambda: {"scratches": 0.25, 'a "b"': 0.0}
    )
    drifts: Sequence[str] = ("Line 1: it moved.", "Line 2: it moved.")


class Unreadable:
    """Figures of a store where one table is damaged, and where the disk is full."""

    images = 1000
    quarantined = 0.01

    @property
    def drifts(self) -> Sequence[str]:
        raise LakeError("a file is damaged.")

    @property
    def defect_rates(self) -> Mapping[str, float]:
        raise OSError(28, "No space left on device")


FIGURES = Fixed()


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ('defect_rate["scratches"] > 0.2', 1),
        ("defect_rate['scratches']>.2", 1),
        ('defect_rate["scratches"] > 0.25', 0),
        ('defect_rate["scratches"] >= 0.25', 1),
        ('defect_rate["scratches"] < 0.2', 0),
        ("defect_rate['a \"b\"'] <= 0", 1),
        ("quarantined > 0.005", 1),
        ("quarantined > 5e-2", 0),
        ("images < 1001", 1),
        (" images<1000 ", 0),
        ("drift", 2),
        ("failed", 0),
    ],
)
def test_a_condition_is_met_or_not(text: str, num: int) -> None:
    found = check([parse_condition(text)], FIGURES)
    assert len(found.alerts) == num
    assert found.is_complete


def test_an_alert_says_the_condition_and_the_figure() -> None:
    found = check([parse_condition('defect_rate["scratches"] > 0.2')], FIGURES)
    assert found.alerts == ('defect_rate["scratches"] > 0.2: it is 0.25.',)


def test_a_condition_that_cannot_be_checked_is_an_alert_and_stops_no_other() -> None:
    asked = ["drift", "images < 5000", "defect_rate['a'] > 0.1", "failed", "defect_rate['b'] > 0"]
    found = check([parse_condition(text) for text in asked], Unreadable())
    assert found.alerts == (
        "images < 5000: it is 1000.",
        "could not be checked: drift: a file is damaged.",
        "could not be checked: defect_rate['a'] > 0.1, defect_rate['b'] > 0: [Errno 28] No space "
        "left on device",
    )
    assert not found.is_complete


@pytest.mark.parametrize(
    "text",
    [
        "", "drift > 1", "failed < 3", "quarantined", "defect_rate > 0.2", "images['a'] > 1",
        'defect_rate["scratches"]', "nonsense > 1", "quarantined == 0.1", "quarantined > -1",
        "quarantined > x", "__import__('os') > 1", "quarantined > 1; drop", "quarantined > nan",
        "defect_rate[scratches] > 1", "0.2 < quarantined",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="is no condition: expected drift"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("quarantined > 5", "the limit 5: expected a share from 0 to 1, such as 0.05 for 5 %"),
        ('defect_rate["scratches"] > 20', "the limit 20: expected a share from 0 to 1"),
        ("quarantined < 1.5", "the limit 1.5: expected a share from 0 to 1"),
        ("quarantined > 1", "the limit 1: expected a share from 0 to 1"),
        ("defect_rate['a'] < 0", "the limit 0: expected a share from 0 to 1"),
        ("images < 1e999", "the limit inf: expected a number of images"),
        ("images > 1e999", "the limit inf: expected a number of images"),
        ("images < 0", "the limit 0: expected a number of images"),
    ],
)
def test_a_limit_that_is_no_share_or_can_never_be_met_is_refused(text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(repr(text))} has {found}"):
        parse_condition(text)


@pytest.mark.parametrize(
    "text",
    [
        "quarantined >= 1", "quarantined > 0", "quarantined <= 1", "quarantined < 1",
        "defect_rate['a'] <= 0", "images >= 0", "images > 0", "images <= 0", "images < 1e9",
    ],
)  # fmt: skip
def test_a_limit_that_a_date_can_meet_is_taken(text: str) -> None:
    assert parse_condition(text).text == text


def test_a_class_that_the_engine_lacks_is_refused() -> None:
    check_classes([parse_condition("drift")], ["pits"])
    with pytest.raises(ConfigError, match="does not have; it has pits, scabs"):
        check_classes([parse_condition("defect_rate['pit'] > 0.1")], ["pits", "scabs"])


def test_a_failed_run_is_told_of_once_and_only_where_asked() -> None:
    both = [parse_condition("failed"), parse_condition("failed"), parse_condition("drift")]
    assert failure_alerts(both, "it broke.") == ["failed: it broke."]
    assert failure_alerts([parse_condition("drift")], "it broke.") == []
