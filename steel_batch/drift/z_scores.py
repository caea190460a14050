"""The z-score of a day against the days before it: its difference in standard deviations.

A difference is held against what it would be without any change. That has two parts: chance, which
follows from the numbers of images, and the days' own spread, as no two days are quite alike, which
is estimated from the days before. The estimate is itself unsure with few days; this widens the
tail, as with Student's t. So one threshold fits a line of 100 images and one of 100,000.

Shape suffixes: D days before, B bins.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FEWEST_EXPECTED: Final = 5.0
"""Images that a bin must be expected to have; neighbouring bins are joined until they do."""
FINEST: Final = 0.05
"""Gray levels: means that lie so close are the same, however many images they are of."""
MAX_Z_SCORE: Final = 37.0
"""Further out, a normal distribution's tail is zero in floating point."""
_NORMAL: Final = NormalDist()


def threshold(num_compared: int, false_warnings: float) -> float:
    """The absolute z-score above which a difference is a warning.

    Args:
        num_compared: Comparisons that are made together (Bonferroni).
        false_warnings: Warnings among them in the mean if nothing has changed.
    """
    return _NORMAL.inv_cdf(1 - min(0.5, false_warnings / max(1, num_compared) / 2))


def p_value(z_score: float) -> float:
    """The probability of such a difference, or a greater one, without any change."""
    return 2 * _NORMAL.cdf(-abs(z_score))


def histogram_z_score(day_B: npt.ArrayLike, days_DB: npt.ArrayLike) -> float:
    """The z-score of a histogram's shape against that of the days before.

    The distance is Pearson's, ``sum (p - q)² / r`` with shares of the day, the days before, and
    both. Without a change it is ``(1/n + 1/m)`` times chi-squared with B - 1 degrees of freedom, of
    which the cube root is nearly normal. (A population stability index is the same to first order,
    and has no limit where a bin is empty.)

    Args:
        day_B: Images per bin.
        days_DB: The same, of each day before.

    Returns:
        At least 0; 0 too where there are too few images to tell.
    """
    day, days = np.asarray(day_B, np.float64), np.asarray(days_DB, np.float64)
    days = days[days.sum(axis=1) > 0]
    before = days.sum(axis=0)
    if not day.sum() or not before.sum():
        return 0.0
    starts = _joined(before * day.sum() / before.sum())
    degrees = len(starts) - 1
    if not degrees:
        return 0.0
    day, days = np.add.reduceat(day, starts), np.add.reduceat(days, starts, axis=1)
    before = days.sum(axis=0)
    expected, deviation = _cube_root_of_chi2(degrees)
    found = float(_distances(day[None], before[None], degrees)[0])
    num_days = len(days)
    if num_days < 2:
        return max(0.0, (found - expected) / deviation)
    own = _distances(days, before - days, degrees)
    degrees_of_spread, scale = num_days - 1, 1 + 1 / num_days
    gap = found - max(expected, float(own.mean()))
    spread = max(0.0, float(own.var(ddof=1)) - deviation**2)
    z_score = _student(gap, deviation**2, spread * scale, degrees_of_spread)
    if own.mean() > expected + 2 * deviation / math.sqrt(num_days):
        # Days differ by more than chance, mostly in few ways at once: a longer tail than
        # chi-squared's. In logarithms it is no longer than a normal distribution's.
        logs = 3 * np.log(np.maximum(own, 1e-3))
        gap = 3 * math.log(max(found, 1e-3)) - float(logs.mean())
        spread = float(logs.var(ddof=1)) * scale
        z_score = min(z_score, _student(gap, 0.0, max(spread, 1e-9), degrees_of_spread))
    return max(0.0, z_score)


def rate_z_score(found: int, images: int, found_D: npt.ArrayLike, images_D: npt.ArrayLike) -> float:
    """How surely a share differs from that of the days before; below 0 where it is smaller.

    The number of images follows a beta-binomial distribution, exactly also where it is small.

    Args:
        found: Images with the class.
        images: Images.
        found_D: The first, of each day before.
        images_D: The second.
    """
    founds, sizes = np.asarray(found_D, np.float64), np.asarray(images_D, np.float64)
    founds, sizes = founds[sizes > 0], sizes[sizes > 0]
    total, num_days = float(sizes.sum()), len(sizes)
    if not images or not num_days:
        return 0.0
    rate = (float(founds.sum()) + 0.5) / (total + 1)
    spread = 0.0
    if num_days > 1:
        squares = float((sizes * (founds / sizes - rate) ** 2).sum()) / (num_days - 1)
        mean_size = (total - float((sizes**2).sum()) / total) / (num_days - 1)
        spread = max(0.0, squares / (rate * (1 - rate)) - 1) / max(1.0, mean_size - 1)
    between = spread * (1 + 1 / num_days)
    precision = max(1e-3, 1 / (between + 1 / total) - 1)
    tail = _tail(found, images, rate * precision, (1 - rate) * precision)
    return _student(tail, 1 / images + 1 / total, between, num_days - 1, is_scaled=True)


def mean_z_score(
    mean: float,
    images: int,
    mean_D: npt.ArrayLike,
    deviation_D: npt.ArrayLike,
    images_D: npt.ArrayLike,
) -> float:
    """How surely a mean differs from that of the days before; below 0 where it is smaller.

    Args:
        mean: Over the day's images.
        images: Their number.
        mean_D: The first, of each day before.
        deviation_D: The standard deviation of its images.
        images_D: The second, of each day before.
    """
    means, deviations, sizes = (
        np.asarray(values, np.float64) for values in (mean_D, deviation_D, images_D)
    )
    means, deviations, sizes = (each[sizes > 0] for each in (means, deviations, sizes))
    total, num_days = float(sizes.sum()), len(sizes)
    if not images or not num_days:
        return 0.0
    # The days' own: an image that changed much is no measure of what images usually differ by.
    within = float((sizes * deviations**2).sum()) / total
    by_chance = within * (1 / images + 1 / total) + FINEST**2
    spread = 0.0
    if num_days > 1:
        spread = max(0.0, float(means.var(ddof=1)) - within * float((1 / sizes).mean()))
    usual = float((sizes * means).sum()) / total if not spread else float(means.mean())
    return _student(mean - usual, by_chance, spread * (1 + 1 / num_days), num_days - 1)


def changed_at(values: npt.ArrayLike) -> int:
    """Where a series of days changed most: the place of the first day of the new level.

    Args:
        values: A number a day, the last being the day that differs.
    """
    series = np.asarray(values, np.float64)
    num = len(series)
    places = np.arange(1, num)
    sums = np.cumsum(series)[:-1]
    before, after = sums / places, (series.sum() - sums) / (num - places)
    gaps = np.abs(after - before) * np.sqrt(places * (num - places))
    return int(places[np.argmax(gaps)]) if len(places) else 0


def _joined(expected_B: Floats) -> list[int]:
    """Where bins begin if neighbours are joined until enough images are expected in each."""
    starts, held = [0], 0.0
    for place, images in enumerate(expected_B.tolist()):
        if held >= FEWEST_EXPECTED:
            starts.append(place)
            held = 0.0
        held += images
    if held < FEWEST_EXPECTED and len(starts) > 1:
        starts.pop()
    return starts


def _distances(days_DB: Floats, before_DB: Floats, degrees: int) -> Floats:
    """The cube roots of Pearson's distances in units of their mean by chance, one a day."""
    n, m = days_DB.sum(axis=1, keepdims=True), before_DB.sum(axis=1, keepdims=True)
    both = (days_DB + before_DB) / (n + m)
    gaps = (days_DB / n - before_DB / np.maximum(m, 1)) ** 2
    found = np.divide(gaps, both, out=np.zeros_like(gaps), where=both > 0).sum(axis=1)
    by_chance = (1 / n + 1 / np.maximum(m, 1))[:, 0]
    roots: Floats = np.cbrt(found / by_chance / degrees)
    return roots


def _cube_root_of_chi2(degrees: int) -> tuple[float, float]:
    """Mean and standard deviation of the cube root of chi-squared over its degrees of freedom."""
    return 1 - 2 / (9 * degrees), math.sqrt(2 / (9 * degrees))


def _tail(found: int, images: int, a: float, b: float) -> float:
    """A beta-binomial tail as standard deviations of a normal distribution."""
    k = np.arange(images)
    ratios = np.log((images - k) / (k + 1.0)) + np.log((k + a) / (images - k - 1 + b))
    first = math.lgamma(images + b) - math.lgamma(images + a + b)
    first += math.lgamma(a + b) - math.lgamma(b)
    logs = np.concatenate([[first], first + np.cumsum(ratios)])
    shares = np.exp(logs)
    up, down = float(shares[found:].sum()), float(shares[: found + 1].sum())
    least = max(min(up, down), 1e-290)
    z_score = max(0.0, -_NORMAL.inv_cdf(least)) if least < 0.5 else 0.0
    return min(MAX_Z_SCORE, z_score) * (1 if up < down else -1)


def _student(
    gap: float, by_chance: float, between: float, degrees: int, *, is_scaled: bool = False
) -> float:
    """A difference in standard deviations, less where the spread between days is a guess.

    Args:
        gap: The difference.
        by_chance: Its variance by chance.
        between: The variance between days, which is estimated.
        degrees: Of freedom of that estimate.
        is_scaled: `gap` is in standard deviations already.
    """
    total = by_chance + between
    t = gap if is_scaled else gap / math.sqrt(total)
    if between and degrees:
        free: Any = degrees * (total / between) ** 2  # Satterthwaite
        t = math.copysign(
            (8 * free + 1) / (8 * free + 3) * math.sqrt(free * math.log1p(t * t / free)), t
        )  # Wallace's normal deviate of Student's t
    return max(-MAX_Z_SCORE, min(MAX_Z_SCORE, t))
