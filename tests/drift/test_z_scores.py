"""The z-score is that of the textbook where nothing moves, and does not depend on n and m."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.drift.z_scores import (
    MAX_Z_SCORE,
    changed_at,
    histogram_z_score,
    mean_z_score,
    p_value,
    rate_z_score,
    threshold,
)

SHAPE = np.array([0.62, 0.12, 0.06, 0.04] + [0.01] * 16)
SHAPE /= SHAPE.sum()


@pytest.mark.parametrize("images", [100, 1_000, 10_000])
def test_without_a_change_the_z_score_is_as_a_normal_distribution_has_it(images: int) -> None:
    """At each size as many histograms lie beyond a limit; a fixed limit of PSI fails here."""
    rng = np.random.default_rng(images)
    found = np.array(
        [
            histogram_z_score(days[-1], days[:-1])
            for days in (rng.multinomial(images, SHAPE, 29) for _ in range(2000))
        ]
    )
    for limit, share in ((1.64, 0.05), (2.33, 0.01)):
        assert 0.3 * share < (found > limit).mean() < 1.6 * share
    assert found.max() < 4.5


@pytest.mark.parametrize("images", [100, 1_000, 10_000])
@pytest.mark.parametrize("spread", [0.0, 0.15])
def test_rates_of_quiet_days_are_rarely_sure(images: int, spread: float) -> None:
    rng = np.random.default_rng(images)
    found = []
    for _ in range(2000):
        rates = np.clip(0.1 * (1 + spread * rng.standard_normal(29)), 0, 1)
        counts = rng.binomial(images, rates)
        sizes = np.full(28, images)
        found.append(rate_z_score(int(counts[-1]), images, counts[:-1], sizes))
    z_score = np.array(found)
    for limit, share in ((1.96, 0.05), (2.58, 0.01)):
        assert (np.abs(z_score) > limit).mean() < 1.7 * share
    assert (np.abs(z_score) > 1).mean() > 0.1, "it is no constant"


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 400), st.integers(0, 400))
def test_a_rate_of_few_images_is_as_sure_as_its_distribution_says(
    images: int, found: int, before: int, found_before: int
) -> None:
    found, found_before = min(found, images), min(found_before, before)
    z_score = rate_z_score(found, images, [found_before], [before])
    assert abs(z_score) <= MAX_Z_SCORE
    opposite = rate_z_score(images - found, images, [before - found_before], [before])
    assert opposite == pytest.approx(-z_score, abs=1e-6)


def test_more_images_of_the_same_shares_make_surer() -> None:
    days = np.rint(np.outer(np.ones(28), 1000 * SHAPE))
    moved = np.rint(1000 * np.roll(SHAPE, 1))
    few, many = (histogram_z_score(n * moved, n * days) for n in (0.1, 1))
    assert 0 < few < many
    rates = [rate_z_score(2 * n // 10, n, [n // 10] * 28, [n] * 28) for n in (50, 500, 5000)]
    assert rates == sorted(rates)


def test_days_that_differ_among_themselves_make_less_sure() -> None:
    sizes = [1000] * 28
    alike = rate_z_score(150, 1000, [100] * 28, sizes)
    unlike = rate_z_score(150, 1000, [60, 140] * 14, sizes)
    assert alike > 4 > 2 > unlike > 0
    means = np.full(28, 80.0)
    steady = mean_z_score(84.0, 1000, means, np.full(28, 10.0), sizes)
    restless = mean_z_score(84.0, 1000, means + [3, -3] * 14, np.full(28, 10.0), sizes)
    assert steady > 8 > 2 > restless > 0


def test_a_fall_is_below_zero_and_nothing_is_nothing() -> None:
    assert rate_z_score(10, 1000, [100] * 28, [1000] * 28) < -5
    assert mean_z_score(70.0, 1000, [80.0] * 28, [10.0] * 28, [1000] * 28) < -5
    assert rate_z_score(0, 0, [1], [10]) == 0
    assert rate_z_score(1, 10, [], []) == 0
    assert mean_z_score(1.0, 10, [], [], []) == 0
    assert histogram_z_score([0] * 20, [[5] * 20]) == 0
    assert histogram_z_score([5] * 20, np.zeros((28, 20))) == 0
    assert histogram_z_score([3] + [0] * 19, [[3] + [0] * 19] * 28) == 0


def test_means_that_lie_within_a_twentieth_of_a_gray_level_are_the_same() -> None:
    assert abs(mean_z_score(80.05, 10**9, [80.0] * 28, [0.0] * 28, [10**9] * 28)) <= 1


def test_the_threshold_grows_with_what_is_compared() -> None:
    few, many = threshold(8, 0.01), threshold(800, 0.01)
    assert few < many
    for num, limit in ((8, few), (800, many)):
        assert num * p_value(limit) == pytest.approx(0.01)


@pytest.mark.parametrize("place", [1, 5, 27, 28])
def test_the_first_day_of_a_new_level_is_found(place: int) -> None:
    rng = np.random.default_rng(place)
    values = rng.normal(10, 0.3, 29)
    values[place:] += 3
    assert changed_at(values) == place
    assert changed_at([1.0]) == 0
