"""A drift in words: what moved, since when, how sure that is, and which images show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from steel_batch import schema
from steel_batch.drift.compare import Drift
from steel_batch.drift.series import quoted

MOST_SHOWN: Final = 3
"""Images that a drift is shown by."""
_LEAST_CHANCE: Final = 1e-9


def sentence(drift: Drift, dates: Sequence[str], classes: Mapping[int, str]) -> str:
    """One paragraph for people.

    Args:
        drift: What moved.
        dates: The days that were compared, the last being the one that differs.
        classes: Names of the classes, by number.
    """
    before = _days(dates[:-1])
    where = "Images without a line" if drift.line is None else f"Line {drift.line}"
    if drift.class_id is None:
        moved = f"mean {drift.figure} is {drift.now:.1f} gray levels, and was {drift.before:.1f}"
    else:
        name = classes.get(drift.class_id, f"class {drift.class_id}")
        now, was = _percent(drift.now), _percent(drift.before)
        if drift.bins is None:
            moved = f"{name} is on {now} of the images, and was on {was}"
        else:
            low, high = (place / schema.PEAK_BINS for place in (drift.bins[0], drift.bins[1] + 1))
            moved = (
                f"the peaks of {name} have moved: {now} of the images are between {low:g} and "
                f"{high:g}, and {was} were"
            )
    return (
        f"{where}: {moved} {before}. It is so since {dates[drift.since]}. Without a change, the "
        f"chance of this is {_chance(drift.chance)}."
    )


def images_sql(drift: Drift, engine: str, date: str, *, limit: int = MOST_SHOWN) -> str:
    """SQL that gives `image_key`, `date` and `engine` of the images that show a drift best."""
    of_day = f"engine = {quoted(engine)} AND date = DATE '{date}'"
    of_line = "line IS NULL" if drift.line is None else f"line = {quoted(drift.line)}"
    where, order, table = f"{of_day} AND {of_line}", "image_key", "peaks"
    if drift.class_id is None:
        table = "predictions"
        order = f"{drift.figure} {'DESC' if drift.now > drift.before else 'ASC'}"
        where += f" AND {drift.figure} IS NOT NULL"
    elif drift.bins is not None:
        low, high = (place / schema.PEAK_BINS for place in (drift.bins[0], drift.bins[1] + 1))
        where += f" AND class_id = {drift.class_id} AND peak >= {low} AND peak <= {high}"
        order = "peak DESC"
    else:
        where += f" AND class_id = {drift.class_id}"
        order = "peak DESC" if drift.now > drift.before else "abs(margin)"
    return (
        f"SELECT image_key, date, engine FROM {table} WHERE {where} "  # noqa: S608 - quoted
        f"ORDER BY {order}, image_key LIMIT {limit}"
    )


def _days(dates: Sequence[str]) -> str:
    if len(dates) == 1:
        return f"on {dates[0]}"
    return f"in the {len(dates)} days before"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _chance(chance: float) -> str:
    if chance >= 0.01:
        return f"{chance:.2f}"
    if chance < _LEAST_CHANCE:
        return "less than 1 in 1,000,000,000"
    exponent = 1 / chance
    digits = 10 ** (len(str(int(exponent))) - 1)
    return f"about 1 in {int(exponent // digits * digits):,}"
