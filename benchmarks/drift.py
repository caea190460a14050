"""Drift: false warnings of quiet months, and real changes on their first day.

Strips are drawn, and scored by the demo engine as they are, 10 % brighter, and through a blurred
lens. A day of a line is a sample of them; what is drawn anew each day is what really differs
between days: how often each class comes (10 %) and the light (1 %). Each line has its own mix.
Then days are compared as `report` does it, with the 28 days before. As a limit of what is possible,
the same changes are judged by a test that knows each line's mean and spread, at the same threshold.

    python -m benchmarks.drift [--months 200] [--strips 400]
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe_machine, keep
from steel_batch import schema
from steel_batch.drift.compare import MEASURES, Drift, LineDays, compare
from steel_batch.drift.z_scores import p_value
from steel_batch.engine.onnxruntime import OrtRuntime
from steel_batch.images.appearance import measure, row_step
from steel_batch.registry.versions import load_engine
from steel_batch.synthetic import render

NUM_LINES: Final = 8
BASELINE: Final = 28
DAYS: Final = 30
SIZES: Final = (100, 1_000, 10_000)
"""Images of a line and day."""
CLASS_SPREAD: Final = 0.1
LIGHT_SPREAD: Final = 0.01
DOUBLED: Final = 4
"""The class whose rate is doubled, from 1."""
KNOWN_DAYS: Final = 200
"""Quiet days from which the test that knows a line learns its mean and spread."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pool:
    """What the engine says of each strip: P strips, C classes, B bins, M measures."""

    found_PC: Array
    bin_PCB: Array
    looks_PM: Array


def draw(num_strips: int) -> dict[str, Pool]:
    """The same strips in good and in changed condition."""
    engine = load_engine("demo", store=None)
    card = engine.card
    runtime = OrtRuntime(
        engine.read_graph("fp32"), card, precision="fp32", batch_size=1, num_threads=1
    )
    changes = {
        "plain": lambda image_HW: image_HW,
        "brighter": lambda image_HW: cv2.convertScaleAbs(image_HW, alpha=1.1),
        "blurred": lambda image_HW: cv2.GaussianBlur(image_HW, (0, 0), 1.0),
    }
    peaks: dict[str, list[Array]] = {name: [] for name in changes}
    looks: dict[str, list[Array]] = {name: [] for name in changes}
    for number in range(num_strips):
        strip_HW = render(18, number).image_HW
        for name, change in changes.items():
            image_HW = change(strip_HW)
            with runtime.acquire() as slot:
                slot.image_NHW[0] = image_HW
                peaks[name].append(slot.infer(1).peak_NC[0].copy())
            looks[name].append(measure(image_HW[None, :: row_step(len(image_HW))])[0])
    runtime.close()
    return {
        name: pool_of(np.stack(peaks[name]), np.stack(looks[name]), np.array(card.thresholds))
        for name in changes
    }


def pool_of(peak_PC: Array, looks_PM: Array, thresholds: Array) -> Pool:
    bins = np.clip((peak_PC * schema.PEAK_BINS).astype(int), 0, schema.PEAK_BINS - 1)
    return Pool(
        found_PC=(peak_PC >= thresholds).astype(np.float64),
        bin_PCB=np.eye(schema.PEAK_BINS)[bins],
        looks_PM=looks_PM.astype(np.float64),
    )


class Mill:
    """Days of some lines, of which each has its own mix of strips."""

    def __init__(self, pools: dict[str, Pool], rng: np.random.Generator) -> None:
        self._pools, self._rng = pools, rng
        self._found_PC = pools["plain"].found_PC
        num, num_classes = self._found_PC.shape
        self._mix_LC = rng.normal(0, 0.5, (NUM_LINES, num_classes))
        self._light_L = rng.normal(1, 0.05, NUM_LINES)
        self._num = num

    def day(self, line: int, images: int, change: str = "plain") -> dict[str, Any]:
        """The figures of one day of one line."""
        pool = self._pools.get(change, self._pools["plain"])
        num_classes = self._found_PC.shape[1]
        today_C = self._mix_LC[line] + self._rng.normal(0, CLASS_SPREAD, num_classes)
        weights = np.exp(self._found_PC @ today_C)
        weights /= weights.sum()
        if change == "doubled":
            has = self._found_PC[:, DOUBLED - 1] > 0
            share = weights[has].sum()
            more = min(2.0, 0.95 / share)
            weights[has] *= more
            weights[~has] *= (1 - more * share) / (1 - share)
        counts = self._rng.multinomial(images, weights)
        light = self._light_L[line] * self._rng.normal(1, LIGHT_SPREAD)
        looks_PM = pool.looks_PM * light
        mean_M = counts @ looks_PM / images
        return {
            "images_T": images,
            "found_TC": np.rint(counts @ pool.found_PC).astype(int),
            "histogram_TCB": np.rint(np.tensordot(counts, pool.bin_PCB, 1)).astype(int),
            "measured_T": images,
            "mean_TM": mean_M,
            "deviation_TM": np.sqrt(np.maximum(0, counts @ looks_PM**2 / images - mean_M**2)),
        }


def lines_of(days: list[list[dict[str, Any]]]) -> list[LineDays]:
    return [
        LineDays(
            line=str(number), **{name: np.stack([day[name] for day in each]) for name in each[0]}
        )
        for number, each in enumerate(days)
    ]


def quiet_months(pools: dict[str, Pool], images: int, num_months: int) -> dict[str, Any]:
    """Warnings a month where nothing happens."""
    warned, kinds = [], Counter[str]()
    for month in range(num_months):
        mill = Mill(pools, np.random.default_rng([images, month]))
        days = [
            [mill.day(line, images) for _ in range(BASELINE + DAYS)] for line in range(NUM_LINES)
        ]
        drifts: list[Drift] = []
        for last in range(BASELINE, BASELINE + DAYS):
            drifts += compare(lines_of([each[last - BASELINE : last + 1] for each in days])).drifts
        warned.append(len(drifts))
        kinds.update(drift.figure for drift in drifts)
    return {
        "false_warnings_a_month": round(float(np.mean(warned)), 3),
        "most_in_a_month": int(max(warned)),
        "by_figure": dict(sorted(kinds.items())),
    }


@dataclass(frozen=True)
class KnownLine:
    """What a quiet line's days are drawn from, which no test of real days can know."""

    looks_DM: Array
    """Means of many quiet days, in logarithms: light multiplies."""
    odds_D: Array
    """Log-odds of the doubled class on quiet days, without chance: of a million images each."""

    @classmethod
    def of(cls, mill: Mill, line: int, images: int) -> KnownLine:
        looks = [mill.day(line, images)["mean_TM"] for _ in range(KNOWN_DAYS)]
        many = 1_000_000
        found = [mill.day(line, many)["found_TC"][DOUBLED - 1] for _ in range(KNOWN_DAYS)]
        rates = np.array(found) / many
        return cls(np.log(looks), np.log(rates / (1 - rates)))

    def chance(self, change: str, day: dict[str, Any]) -> float:
        """The probability of a day at least as unusual, without any change.

        Of one figure: brightness, sharpness or the rate.
        """
        if change == "doubled":
            # Exact: the day's log-odds are normal, and its images binomial.
            at, weights = np.polynomial.hermite_e.hermegauss(40)
            rates = 1 / (1 + np.exp(-self.odds_D.mean() - self.odds_D.std(ddof=1) * at))
            tails = binomial_tails(day["found_TC"][DOUBLED - 1], day["images_T"], rates)
            return float(2 * (weights * tails).sum() / weights.sum())
        place = MEASURES.index("brightness" if change == "brighter" else "sharpness")
        usual = self.looks_DM[:, place]
        return p_value((np.log(day["mean_TM"][place]) - usual.mean()) / usual.std(ddof=1))


def binomial_tails(found: int, images: int, rates: Array) -> Array:
    """The probabilities of at least as many, for each rate."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])
    k = np.arange(found, images + 1)
    ways = factorials[images] - factorials[k] - factorials[images - k]
    tails: Array = np.exp(
        ways + np.outer(np.log(rates), k) + np.outer(np.log1p(-rates), images - k)
    ).sum(axis=1)
    return tails


def first_days(pools: dict[str, Pool], images: int, num_trials: int) -> dict[str, Any]:
    """Changes of all lines: the share of lines, and of days, that are warned of on the first."""
    wanted = {"brighter": set(MEASURES), "blurred": {"sharpness"}, "doubled": {"defect_rate"}}
    lines, days, known = Counter[str](), Counter[str](), Counter[str]()
    for trial in range(num_trials):
        mill = Mill(pools, np.random.default_rng([images, 7_000 + trial]))
        before = [[mill.day(line, images) for _ in range(BASELINE)] for line in range(NUM_LINES)]
        known_lines = [KnownLine.of(mill, line, images) for line in range(NUM_LINES)]
        for change, figures in wanted.items():
            after = [[*each, mill.day(line, images, change)] for line, each in enumerate(before)]
            judged = compare(lines_of(after))
            found = {drift.line for drift in judged.drifts if drift.figure in figures}
            lines[change] += len(found)
            days[change] += bool(found)
            level = p_value(judged.threshold)
            for known_line, each in zip(known_lines, after, strict=True):
                known[change] += known_line.chance(change, each[-1]) <= level
    return {
        change: {
            "lines": round(lines[change] / num_trials / NUM_LINES, 3),
            "days": round(days[change] / num_trials, 3),
            "lines_if_the_spread_were_known": round(known[change] / num_trials / NUM_LINES, 3),
        }
        for change in wanted
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--months", type=int, default=200)
    parser.add_argument("--strips", type=int, default=400)
    arguments = parser.parse_args()
    pools = draw(arguments.strips)
    figures: dict[str, Any] = {
        "months": arguments.months,
        "strips": arguments.strips,
        "lines": NUM_LINES,
        "classes": int(pools["plain"].found_PC.shape[1]),
        "rates": np.round(pools["plain"].found_PC.mean(axis=0), 3).tolist(),
        "looks": {n: np.round(p.looks_PM.mean(axis=0), 2).tolist() for n, p in pools.items()},
        "quiet": {n: quiet_months(pools, n, arguments.months) for n in SIZES},
        "flagged_on_first_day": {n: first_days(pools, n, 100) for n in SIZES},
    }
    keep("drift", {**describe_machine(), **figures})


if __name__ == "__main__":
    main()
