"""The page about two engines: where they agree on the images that both scored, and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from steel_batch.answers.open_store import OpenStore
from steel_batch.drift.series import quoted
from steel_batch.errors import ConfigError, SteelBatchError
from steel_batch.exports.selection import Image
from steel_batch.masks.rle import decode_rle
from steel_batch.report.charts import wilson
from steel_batch.report.engine_page import table
from steel_batch.report.page import document
from steel_batch.report.pictures import COLORS_BGR, legend, outlined, picture
from steel_batch.report.scored_images import ScoredImages

SHOWN_OF_A_KIND: Final = 3
"""Images of each class and kind of difference."""
MOST_SHOWN: Final = 60
_BOTH: Final = "internal.of_both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """An image on which one of two engines finds a class."""

    key: str
    date: str
    found_by: int
    """0 or 1: the place of the engine."""
    peaks: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Two engines on one class."""

    class_name: str
    both: int
    only: tuple[int, int]
    neither: int
    differences: Sequence[Difference]

    @property
    def num_images(self) -> int:
        """Images that both scored."""
        return self.both + sum(self.only) + self.neither

    @property
    def kappa(self) -> float | None:
        """Cohen's: 1 if they always agree, 0 if as often as by chance; None if undefined."""
        first, second = self.both + self.only[0], self.both + self.only[1]
        n = self.num_images
        expected = (first * second + (n - first) * (n - second)) / (n * n)
        return (
            None if expected == 1 else ((self.both + self.neither) / n - expected) / (1 - expected)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NotCompared:
    """A class that only one of two engines has."""

    class_name: str
    engine: str
    """The engine that has it."""
    num_defective: int
    """Images on which it found the class, of those that both scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Two engines on every class that at least one of them has."""

    agreements: Sequence[Agreement]
    not_compared: Sequence[NotCompared]


def compare_engines(
    store: OpenStore, engines: tuple[str, str], dates: tuple[str, str] | None
) -> Compared:
    """How two engines agree, per class that both have; the other classes are counted.

    Args:
        store: The store.
        engines: Their names.
        dates: The first and the last date; None for all.

    Raises:
        ConfigError: They are one, have no class in common, or scored no image in common.
    """
    first, second = engines
    if first == second:
        raise ConfigError(f"--compare {first} {second}: these are one engine.")
    names = [store.classes(engine) for engine in engines]
    for engine, found in zip(engines, names, strict=True):
        if not found:
            raise ConfigError(
                f"engine {engine} has no rows in this store. Give names as `steel-batch engines "
                "list` prints them."
            )
    common = [name for name in names[0].values() if name in set(names[1].values())]
    if not common:
        raise ConfigError(
            f"{first} finds {', '.join(names[0].values())}, and {second} finds "
            f"{', '.join(names[1].values())}: they have no class in common."
        )
    when = "" if dates is None else f"AND date BETWEEN DATE '{dates[0]}' AND DATE '{dates[1]}'"
    sides = [
        "SELECT date, image_key, peak, "  # noqa: S608 - quoted
        "list_transform(defects, lambda d: d.class_id) AS found "
        f"FROM predictions WHERE engine = {quoted(engine)} {when}"
        for engine in engines
    ]
    store.run(
        f"CREATE TABLE {_BOTH} AS SELECT date, image_key, a.peak AS peak_a, a.found AS found_a, "  # noqa: S608 - ours
        f"b.peak AS peak_b, b.found AS found_b FROM ({sides[0]}) a JOIN ({sides[1]}) b "
        "USING (date, image_key)",
        names="predictions",
    )
    if not store.fetch(f"SELECT count(*) FROM {_BOTH}")[0][0]:  # noqa: S608 - ours
        raise ConfigError(
            f"{first} and {second} have no image in common{' of these dates' if dates else ''}."
        )
    ids = [{name: number for number, name in found.items()} for found in names]
    return Compared(
        agreements=[_agreement(store, name, ids[0][name], ids[1][name]) for name in common],
        not_compared=[
            NotCompared(
                class_name=name,
                engine=engine,
                num_defective=store.fetch(
                    f"SELECT count(*) FROM {_BOTH} WHERE list_contains({column}, {number})"  # noqa: S608 - ours
                )[0][0],
            )
            for engine, column, found in zip(engines, ("found_a", "found_b"), names, strict=True)
            for number, name in found.items()
            if name not in common
        ],
    )


def _agreement(store: OpenStore, name: str, first: int, second: int) -> Agreement:
    a, b = f"list_contains(found_a, {first})", f"list_contains(found_b, {second})"
    both, only_a, only_b, neither = store.fetch(
        f"SELECT count(*) FILTER ({a} AND {b}), count(*) FILTER ({a} AND NOT {b}), "  # noqa: S608 - ours
        f"count(*) FILTER (NOT {a} AND {b}), count(*) FILTER (NOT {a} AND NOT {b}) FROM {_BOTH}"
    )[0]
    differences = []
    for place, where in enumerate((f"{a} AND NOT {b}", f"NOT {a} AND {b}")):
        rows = store.fetch(
            f"SELECT image_key, date, peak_a[{first}], peak_b[{second}] FROM {_BOTH} "  # noqa: S608 - ours
            f"WHERE {where} ORDER BY abs(peak_a[{first}] - peak_b[{second}]) DESC, 1, 2 "
            f"LIMIT {SHOWN_OF_A_KIND}"
        )
        differences += [
            Difference(key=key, date=str(date), found_by=place, peaks=(peak_a, peak_b))
            for key, date, peak_a, peak_b in rows
        ]
    return Agreement(
        class_name=name, both=both, only=(only_a, only_b), neither=neither, differences=differences
    )


def render_comparison(
    store: OpenStore,
    engines: tuple[str, str],
    found: Compared,
    images: ScoredImages,
    *,
    period: str,
) -> str:
    """The page.

    Args:
        store: The store.
        engines: The two.
        found: How they agree.
        images: Reads the images.
        period: Which dates.
    """
    title = f"{engines[0]} and {engines[1]}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{found.agreements[0].num_images:,} images that both scored, {escape(period)}.</p>",
        "<h2>Agreement</h2>",
        table(
            ("class", "both", f"only {engines[0]}", f"only {engines[1]}", "neither",
             "same verdict", "95 % interval", "Cohen's kappa"),
            [_row(each) for each in found.agreements],
        ),
        *_not_compared(found.not_compared),
        "<h2>Differences</h2>",
        f"<p>Outlines: {legend(dict(zip(engines, COLORS_BGR[:2], strict=True)))}. The largest "
        "differences of the peak come first.</p>",
        *_differences(store, engines, found.agreements, images),
    ]  # fmt: skip
    return document(title, "".join(parts))


def _row(each: Agreement) -> list[str]:
    same, num = each.both + each.neither, each.num_images
    low, high = wilson(same, num)
    kappa = each.kappa
    return [
        each.class_name, f"{each.both:,}", f"{each.only[0]:,}", f"{each.only[1]:,}",
        f"{each.neither:,}", f"{100 * same / num:.2f} %", f"{100 * low:.2f}–{100 * high:.2f} %",
        "–" if kappa is None else f"{kappa:.3f}",
    ]  # fmt: skip


def _not_compared(classes: Sequence[NotCompared]) -> list[str]:
    if not classes:
        return []
    return [
        "<h3>Not compared</h3><p>Classes that only one of the engines has:</p>",
        table(
            ("class", "engine that has it", "images with it"),
            [(each.class_name, each.engine, f"{each.num_defective:,}") for each in classes],
            texts=("engine that has it",),
        ),
    ]


def _differences(
    store: OpenStore, engines: tuple[str, str], found: Sequence[Agreement], images: ScoredImages
) -> list[str]:
    parts, num = [], 0
    classes = [{n: i for i, n in store.classes(engine).items()} for engine in engines]
    for each in found:
        for place in (0, 1):
            chosen = [d for d in each.differences if d.found_by == place][: MOST_SHOWN - num]
            if not chosen:
                continue
            num += len(chosen)
            parts.append(
                f"<h3>{escape(f'{each.class_name}, found by {engines[place]} alone')}</h3>"
                "<div class='grid'>"
            )
            ids = (classes[0][each.class_name], classes[1][each.class_name])
            parts += [_picture(store, engines, difference, ids, images) for difference in chosen]
            parts.append("</div>")
    names = ", ".join(each.class_name for each in found)
    return parts or [f"<p>None: both give every image the same verdict on {escape(names)}.</p>"]


def _picture(
    store: OpenStore,
    engines: tuple[str, str],
    difference: Difference,
    ids: tuple[int, int],
    images: ScoredImages,
) -> str:
    with store.answering():
        rows: list[Mapping[str, Any]] = [
            store.sql(
                "SELECT engine, run_id, bytes, width, height, defects FROM predictions "  # noqa: S608 - quoted
                f"WHERE engine = {quoted(engine)} AND date = DATE '{difference.date}' "
                f"AND image_key = {quoted(difference.key)}"
            )
            .to_arrow_table()
            .to_pylist()[0]
            for engine in engines
        ]
    image = Image(key=difference.key, name=difference.key, **rows[0])
    caption = (
        f"{escape(difference.key)}<br>peak {difference.peaks[0]:.3f} and {difference.peaks[1]:.3f}"
    )
    ((_, pixels_HW),) = images.read_each([image])
    if isinstance(pixels_HW, SteelBatchError):
        return f"<figure><figcaption>{caption}<br>{escape(str(pixels_HW))}</figcaption></figure>"
    layers = [
        (decode_rle(defect["rle"], *pixels_HW.shape), COLORS_BGR[place])
        for place, row in enumerate(rows)
        for defect in row["defects"]
        if defect["class_id"] == ids[place]
    ]
    return picture(outlined(pixels_HW, layers), caption)
