"""Conditions mean what they say, and what is none is refused."""

from __future__ import annotations

import pytest

from steel_batch.alerts.conditions import (
    Figures,
    alerts_of,
    check_classes,
    failure_alerts,
    parse_condition,
)
from steel_batch.errors import ConfigError

FIGURES = Figures(
    images=1000, quarantined=0.01, defect_rates={"scratches": 0.25, "a \"b\"": 0.0},
    drifts=["Line 1: it moved.", "Line 2: it moved."],
)  # fmt: skip


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
    assert len(alerts_of([parse_condition(text)], FIGURES)) == num


def test_an_alert_says_the_condition_and_the_figure() -> None:
    found = alerts_of([parse_condition('defect_rate["scratches"] > 0.2')], FIGURES)
    assert found == ['defect_rate["scratches"] > 0.2: it is 0.25.']


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


def test_a_class_that_the_engine_lacks_is_refused() -> None:
    check_classes([parse_condition("drift")], ["pits"])
    with pytest.raises(ConfigError, match="does not have; it has pits, scabs"):
        check_classes([parse_condition("defect_rate['pit'] > 1")], ["pits", "scabs"])


def test_a_failed_run_is_told_of_once_and_only_where_asked() -> None:
    both = [parse_condition("failed"), parse_condition("failed"), parse_condition("drift")]
    assert failure_alerts(both, "it broke.") == ["failed: it broke."]
    assert failure_alerts([parse_condition("drift")], "it broke.") == []
