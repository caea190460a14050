"""What is warned of, in words; and what a store's tables say of its days."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steel_batch import layout
from steel_batch.answers.open_store import OpenStore
from steel_batch.drift.compare import FEWEST_DAYS, MEASURES, LineDays, compare
from steel_batch.drift.series import days_before, read_days
from steel_batch.drift.words import images_sql, sentence
from steel_batch.lake import Lake
from tests.made_up_run import CLASSES, ENGINE, commit_run, image_keys

DATES = [f"2026-11-{day:02}" for day in range(1, 30)]
NAMES = dict(enumerate(CLASSES, 1))


def quiet(rng: np.random.Generator, line: str = "1", images: int = 1000) -> dict[str, Any]:
    """28 days and one more, all alike."""
    shape = np.r_[[0.6, 0.2], np.full(18, 0.2 / 18)]
    num_days = len(DATES)
    return {
        "line": line,
        "images_T": np.full(num_days, images),
        "found_TC": rng.binomial(images, 0.1, (num_days, 4)),
        "histogram_TCB": rng.multinomial(images, shape, (num_days, 4)),
        "measured_T": np.full(num_days, images),
        "mean_TM": rng.normal([90, 20, 5], [1, 0.3, 0.05], (num_days, 3)),
        "deviation_TM": np.full((num_days, 3), 5.0),
    }


def figures(**changes: Any) -> list[LineDays]:
    rng = np.random.default_rng(4)
    return [LineDays(**(quiet(rng) | changes)), LineDays(**quiet(rng, "2"))]


def test_nothing_is_said_of_days_that_are_alike() -> None:
    found = compare(figures())
    assert found.drifts == ()
    assert found.num_compared == 2 * 2 * (2 * 4 + 3)
    assert 3 < found.threshold < 5


@pytest.mark.parametrize("num_days", [1, 3, 7])
def test_a_doubled_rate_is_named_for_a_week_with_its_first_day(num_days: int) -> None:
    found_TC = np.random.default_rng(5).binomial(1000, 0.1, (29, 4))
    found_TC[-num_days:, 2] = 205
    (drift,) = compare(figures(found_TC=found_TC)).drifts
    assert (drift.line, drift.figure, drift.class_id) == ("1", "defect_rate", 3)
    assert DATES[drift.since] == f"2026-11-{30 - num_days}"
    text = sentence(drift, DATES, NAMES)
    assert "Line 1: scratch is on 20.5 % of the images, and was on " in text
    assert f"in the 28 days before. It is so since 2026-11-{30 - num_days}." in text
    assert "Without a change, the chance of this is " in text


def test_peaks_that_moved_under_the_threshold_are_named_with_their_range() -> None:
    rng = np.random.default_rng(6)
    histogram_TCB = quiet(rng)["histogram_TCB"]
    histogram_TCB[-1, 1] = 0
    histogram_TCB[-1, 1, [0, 1, 8, 9]] = 500, 200, 150, 150
    (drift,) = compare(figures(histogram_TCB=histogram_TCB)).drifts
    assert (drift.figure, drift.class_id, drift.bins) == ("peak", 2, (8, 9))
    text = sentence(drift, DATES, NAMES)
    assert "the peaks of inclusion have moved: 30.0 % of the images are between 0.4 and 0.5" in text


@pytest.mark.parametrize("place", range(3))
def test_light_and_lens_are_named(place: int) -> None:
    mean_TM = quiet(np.random.default_rng(7))["mean_TM"]
    mean_TM[-1, place] *= 0.8
    (drift,) = compare(figures(mean_TM=mean_TM)).drifts
    assert (drift.figure, drift.class_id, drift.since) == (MEASURES[place], None, 28)
    assert drift.z_score < 0
    assert f"mean {MEASURES[place]} is " in sentence(drift, DATES, NAMES)


def test_rows_of_earlier_builds_are_no_black_images() -> None:
    """They have no brightness: neither are they compared, nor is the first day that has one."""
    measured_T = np.zeros(29, int)
    measured_T[-1] = 1000
    mean_TM = np.zeros((29, 3))
    mean_TM[-1] = 90, 20, 5
    assert compare(figures(measured_T=measured_T, mean_TM=mean_TM)).drifts == ()


def test_a_line_that_is_new_or_stands_still_is_named_and_not_judged() -> None:
    images_T = np.full(29, 1000)
    images_T[: 29 - FEWEST_DAYS] = 0
    none_TC = np.zeros((29, 4), int)
    found = compare(figures(images_T=images_T, found_TC=none_TC))
    assert found.too_new == ("1",)
    assert found.num_compared == 22
    images_T = np.full(29, 1000)
    images_T[-1] = 0
    assert compare(figures(images_T=images_T)).absent == ("1",)


def test_figures_of_a_store_are_those_of_its_rows(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    dates = ["2026-11-19", "2026-11-21", "2026-11-22"]
    for number, date in enumerate(dates):
        commit_run(store, image_keys(20 + number, lines=("1", "10", "2", None)), date=date)
    commit_run(store, image_keys(7), date="2026-11-20", engine="other-0123456789ab")
    with OpenStore(store) as opened:
        assert days_before(opened, ENGINE, "2026-11-22", 28) == dates[:2]
        assert days_before(opened, ENGINE, "2026-11-22", 1) == ["2026-11-21"]
        assert days_before(opened, "it's", "2026-11-22", 28) == []
        lines = read_days(opened, ENGINE, dates)
        rows = opened.sql(f"FROM predictions WHERE engine = '{ENGINE}'").to_arrow_table()
    assert [line.line for line in lines] == ["1", "2", "10", None]
    for line in lines:
        for place, date in enumerate(dates):
            of_day = [
                row
                for row in rows.to_pylist()
                if row["line"] == line.line
                and row["date"] == datetime.date.fromisoformat(layout.check_date(date))
            ]
            assert line.images_T[place] == len(of_day)
            assert line.measured_T[place] == len(of_day)
            for m, measure in enumerate(MEASURES):
                values = [row[measure] for row in of_day]
                assert line.mean_TM[place, m] == pytest.approx(np.mean(values))
                assert line.deviation_TM[place, m] == pytest.approx(np.std(values), abs=1e-6)
            for c in range(4):
                found = sum(any(d["class_id"] == c + 1 for d in row["defects"]) for row in of_day)
                assert line.found_TC[place, c] == found
                bins = np.clip([int(row["peak"][c] * 20) for row in of_day], 0, 19)
                assert line.histogram_TCB[place, c].sum() == len(bins)


def test_the_images_of_a_drift_are_of_its_line_and_day(tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    for date in ("2026-11-20", "2026-11-21"):
        commit_run(store, image_keys(40), date=date)
    found_TC = np.random.default_rng(5).binomial(1000, 0.1, (29, 4))
    found_TC[-1, 2] = 205
    (rate,) = compare(figures(found_TC=found_TC)).drifts
    mean_TM = quiet(np.random.default_rng(7))["mean_TM"]
    mean_TM[-1, 0] *= 0.8
    (light,) = compare(figures(mean_TM=mean_TM)).drifts
    with OpenStore(store) as opened:
        found = opened.sql(images_sql(rate, ENGINE, "2026-11-21")).fetchall()
        assert len(found) == 3
        assert {(key[:2], str(date), engine) for key, date, engine in found} == {
            ("1/", "2026-11-21", ENGINE)
        }
        dark = opened.sql(images_sql(light, ENGINE, "2026-11-21")).fetchall()
        least = opened.sql(
            "SELECT min(brightness) FROM predictions WHERE line = '1' AND date = '2026-11-21'"
        ).fetchall()
        shown = opened.sql(
            f"SELECT min(brightness) FROM predictions WHERE image_key = '{dark[0][0]}'"
        ).fetchall()
    assert len(dark) == 3
    assert shown == least
