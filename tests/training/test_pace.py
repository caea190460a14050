from __future__ import annotations

import dataclasses

import pytest

from tests.training.small_job import RECIPE
from training.pace import Pace

CONFIG = dataclasses.replace(RECIPE, num_steps=2000, batch_size=16)


def test_the_first_report_is_judged_by_its_speed_and_later_ones_by_the_clock() -> None:
    now = 100.0
    pace = Pace(CONFIG, clock=lambda: now)
    first = pace.of({"step": 50, "images_per_second": 80.0})
    assert first == {"num_steps": 2000, "seconds_left": pytest.approx(1950 * 16 / 80)}
    now += 30.0  # 100 steps, and a judgement among them
    assert pace.of({"step": 150})["seconds_left"] == pytest.approx(1850 * 0.3)
    now += 570.0
    assert pace.of({"step": 2000})["seconds_left"] == 0


def test_a_continued_run_is_judged_by_its_own_steps() -> None:
    now = 0.0
    pace = Pace(CONFIG, clock=lambda: now)
    pace.of({"step": 1050, "images_per_second": 16.0})
    now += 10.0
    assert pace.of({"step": 1100})["seconds_left"] == pytest.approx(900 * 0.2)


def test_steps_that_a_lost_worker_takes_again_begin_a_new_estimate() -> None:
    now = 0.0
    pace = Pace(CONFIG, clock=lambda: now)
    pace.of({"step": 200, "images_per_second": 16.0})
    now += 600.0
    again = pace.of({"step": 150, "images_per_second": 160.0})
    assert again["seconds_left"] == pytest.approx(1850 * 16 / 160)


def test_nothing_is_estimated_from_nothing() -> None:
    assert Pace(CONFIG).of({"step": 200})["seconds_left"] is None
