"""Which of a day's figures differ from the days before by more than chance.

Shape suffixes: T days, the last being the one that is judged; C classes; B bins; M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from steel_batch.drift.z_scores import (
    changed_at,
    histogram_z_score,
    mean_z_score,
    p_value,
    rate_z_score,
    threshold,
)

FALSE_WARNINGS_A_DAY: Final = 0.005
"""In the mean, over all lines and classes, if nothing has changed and days spread normally. They do
not quite: see `benchmarks/drift.py`, by which it is less than one a month."""
FEWEST_DAYS: Final = 5
"""Days of the baseline; with fewer, the spread between days cannot be estimated."""
WEEK: Final = 7
"""Days next to the judged one that each figure is also compared without: what changed within them
would be taken for the line's own spread."""
MEASURES: Final = ("brightness", "contrast", "sharpness")

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LineDays:
    """One line's figures on some days; a day without images has zeros."""

    line: str | None
    images_T: Counts
    found_TC: Counts
    """Images with the class."""
    histogram_TCB: Counts
    """Images by `peak` of the class."""
    measured_T: Counts
    """Images whose looks are known: builds before December 2026 did not note them."""
    mean_TM: Floats
    """Of `MEASURES`."""
    deviation_TM: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """One figure that differs."""

    line: str | None
    figure: str
    """``defect_rate``, ``peak`` or one of `MEASURES`."""
    class_id: int | None
    """From 1; None for a figure of the images."""
    z_score: float
    """In standard deviations; below 0 where the figure fell."""
    chance: float
    """Of such a difference among as many comparisons, without any change."""
    before: float
    """Of the days before; of ``peak`` the share of images in `bins`."""
    now: float
    since: int
    """Place of the first day that is like the last."""
    bins: tuple[int, int] | None = None
    """Of ``peak``: the bins (first, last) whose share grew most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was found, and what could not be told."""

    drifts: tuple[Drift, ...]
    """Least probable first."""
    num_compared: int
    threshold: float
    """In standard deviations."""
    too_new: tuple[str | None, ...]
    """Lines with fewer than `FEWEST_DAYS` days before."""
    absent: tuple[str | None, ...]
    """Lines without an image on the day, which had some on more than half of the days before."""


def compare(lines: Sequence[LineDays]) -> Comparison:
    """Compare the last day of each line with those before it.

    A class of a line is warned of once: of its rate, or else of its peaks.
    """
    num_days = [int((line.images_T[:-1] > 0).sum()) for line in lines]
    there = [bool(line.images_T[-1]) for line in lines]
    judged = [
        line
        for line, num, is_there in zip(lines, num_days, there, strict=True)
        if is_there and num >= FEWEST_DAYS
    ]
    num_compared = sum(
        len(_parts(line)) * (2 * line.found_TC.shape[1] + len(MEASURES)) for line in judged
    )
    limit = threshold(num_compared, FALSE_WARNINGS_A_DAY)
    drifts = [drift for line in judged for drift in _of_line(line, limit, num_compared)]
    return Comparison(
        drifts=tuple(sorted(drifts, key=lambda drift: -abs(drift.z_score))),
        num_compared=num_compared,
        threshold=limit,
        too_new=tuple(
            line.line
            for line, num, is_there in zip(lines, num_days, there, strict=True)
            if is_there and num < FEWEST_DAYS
        ),
        absent=tuple(
            line.line
            for line, num, is_there in zip(lines, num_days, there, strict=True)
            if not is_there and num > (len(line.images_T) - 1) / 2
        ),
    )


def _of_line(line: LineDays, limit: float, num_compared: int) -> list[Drift]:
    found = []
    for c in range(line.found_TC.shape[1]):
        drift = _rate(line, c)
        if abs(drift.z_score) <= limit:
            drift = _peaks(line, c)
        found.append(drift)
    found += [_looks(line, m) for m in range(len(MEASURES)) if line.measured_T[-1]]
    return [_corrected(drift, num_compared) for drift in found if abs(drift.z_score) > limit]


def _corrected(drift: Drift, num_compared: int) -> Drift:
    values = {name: getattr(drift, name) for name in Drift.__slots__}
    return Drift(**values | {"chance": min(1.0, drift.chance * num_compared)})


def _parts(line: LineDays) -> list[slice]:
    """The days before, and those before the last week if they are enough."""
    is_long = int((line.images_T[: -1 - WEEK] > 0).sum()) >= FEWEST_DAYS
    return [slice(None, -1), slice(None, -1 - WEEK)] if is_long else [slice(None, -1)]


def _greatest_z_score(line: LineDays, judge: Callable[[slice], float]) -> float:
    return max((judge(part) for part in _parts(line)), key=abs)


def _rate(line: LineDays, c: int) -> Drift:
    images, found = line.images_T, line.found_TC[:, c]
    z_score = _greatest_z_score(
        line,
        lambda part: rate_z_score(int(found[-1]), int(images[-1]), found[part], images[part]),
    )
    return Drift(
        line=line.line, figure="defect_rate", class_id=c + 1, z_score=z_score,
        chance=p_value(z_score), before=float(found[:-1].sum() / images[:-1].sum()),
        now=float(found[-1] / images[-1]), since=_since(found, images),
    )  # fmt: skip


def _peaks(line: LineDays, c: int) -> Drift:
    counts, images = line.histogram_TCB[:, c], line.histogram_TCB[:, c].sum(axis=1)
    z_score = _greatest_z_score(line, lambda part: histogram_z_score(counts[-1], counts[part]))
    before, now = (part.sum(axis=0) / max(1, part.sum()) for part in (counts[:-1], counts[-1:]))
    first, last = _grown(now - before)
    part = counts[:, first : last + 1].sum(axis=1)
    return Drift(
        line=line.line, figure="peak", class_id=c + 1, z_score=z_score,
        chance=p_value(z_score), before=float(before[first : last + 1].sum()),
        now=float(now[first : last + 1].sum()), since=_since(part, images), bins=(first, last),
    )  # fmt: skip


def _looks(line: LineDays, m: int) -> Drift:
    mean, images = line.mean_TM[:, m], line.measured_T
    deviation = line.deviation_TM[:, m]
    z_score = _greatest_z_score(
        line,
        lambda part: mean_z_score(
            float(mean[-1]), int(images[-1]), mean[part], deviation[part], images[part]
        ),
    )
    total = max(1, int(images[:-1].sum()))
    return Drift(
        line=line.line, figure=MEASURES[m], class_id=None, z_score=z_score,
        chance=p_value(z_score), before=float((mean[:-1] * images[:-1]).sum() / total),
        now=float(mean[-1]), since=_since(mean * images, images),
    )  # fmt: skip


def _since(sums_T: npt.ArrayLike, images_T: npt.NDArray[np.int64]) -> int:
    """The place among all days of the first that is like the last."""
    places = np.flatnonzero(images_T)
    values = np.asarray(sums_T, np.float64)[places] / images_T[places]
    return int(places[changed_at(values)])


def _grown(gained_B: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The neighbouring bins that gained most together."""
    best, best_gain, start, gain = (0, 0), -1.0, 0, 0.0
    for place, each in enumerate(gained_B.tolist()):
        if gain <= 0:
            start, gain = place, 0.0
        gain += each
        if gain > best_gain:
            best, best_gain = (start, place), gain
    return best
