"""The page about one date: what was scored, what was found, and what is not as usual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

import numpy as np

from steel_batch.drift.compare import LineDays
from steel_batch.drift.words import sentence
from steel_batch.errors import SteelBatchError
from steel_batch.exports.selection import Image
from steel_batch.report.charts import Interval, Series, interval_chart, trend_chart, wilson
from steel_batch.report.day_facts import DayFacts
from steel_batch.report.engine_page import table
from steel_batch.report.page import NUM_COLORS, document
from steel_batch.report.pictures import color_of, defects_of, legend, outlined, picture
from steel_batch.report.scored_images import ScoredImages

PICTURE_BYTES: Final = 4_000_000
"""Of HTML with pictures; a page has 5 MB at most."""
MOST_LINES: Final = 40
"""Lines that charts and tables show one by one."""
_STEPS: Final = {
    "plan": "listing and planning",
    "join": "joining the cluster",
    "score": "scoring",
    "merge": "merging files",
    "commit": "committing",
}


def render_day(facts: DayFacts, images: ScoredImages, alerts: Sequence[str] = ()) -> str:
    """The page; pictures are left out where an image cannot be read, and the page says why.

    Args:
        facts: What is known of the date.
        images: Reads the images.
        alerts: What the run was to be told of.
    """
    pictures = _Pictures(facts, images)
    title = f"{facts.date}: surface defects"
    return document(
        title,
        "".join(
            [
                f"<h1>{escape(title)}</h1>",
                _summary(facts),
                *_alerts(alerts),
                *(_of_scored(facts, pictures) if facts.num_images else ()),
                "<h2>Quarantine</h2>",
                _quarantine(facts),
                "<h2>Runs</h2>",
                _runs(facts),
            ]
        ),
    )


def _of_scored(facts: DayFacts, pictures: _Pictures) -> Iterator[str]:
    """What there is to say only of images that could be scored."""
    yield "<h2>What is not as usual</h2>"
    yield from _drifts(facts, pictures)
    yield "<h2>Defect rates</h2>"
    yield from _rates(facts)
    yield "<h2>Areas</h2>"
    yield _areas(facts)
    yield from _hours(facts)
    yield "<h2>Largest and most doubtful</h2>"
    yield from _images(facts, pictures)


class _Pictures:
    """Pictures of images as HTML, up to `PICTURE_BYTES` of all."""

    def __init__(self, facts: DayFacts, images: ScoredImages) -> None:
        wanted = [
            *(image for _, several in facts.of_drifts for image in several),
            *facts.worst,
            *(image for image, _ in facts.doubtful),
        ]
        unique = list({image.key: image for image in wanted}.values())
        self._classes = facts.classes
        self._left = PICTURE_BYTES
        self._pixels = {image.key: found for image, found in images.read_each(unique)}

    def of(self, image: Image, note: str = "") -> str:
        caption = escape(image.key) + (f"<br>{escape(note)}" if note else "")
        if image.defects:
            found = ", ".join(
                f"{self._classes.get(d['class_id'], d['class_id'])} {d['area_px']:,} px "
                f"({d['peak']:.2f})"
                for d in image.defects
            )
            caption += f"<br>{escape(found)}"
        pixels_HW = self._pixels[image.key]
        if isinstance(pixels_HW, SteelBatchError):
            return (
                f"<figure><figcaption>{caption}<br>{escape(str(pixels_HW))}</figcaption></figure>"
            )
        shown = picture(outlined(pixels_HW, defects_of(pixels_HW, image.defects)), caption)
        if len(shown) > self._left:
            full = "no picture: the page is full"
            return f"<figure><figcaption>{caption}<br>{full}</figcaption></figure>"
        self._left -= len(shown)
        return shown


def _summary(facts: DayFacts) -> str:
    lines = sum(1 for line in facts.lines if line.images_T[-1])
    compared = (
        f"compared with {facts.against}"
        if facts.against
        else f"compared with {len(facts.dates) - 1} days before"
    )
    bad = facts.num_quarantined
    if not facts.num_images:
        return (
            f"<p><b>No image could be scored</b> by {escape(facts.engine)} ({escape(facts.why)}): "
            f"<b>{bad:,}</b> {'is' if bad == 1 else 'are'} in quarantine, so there are no rates, "
            "areas or pictures.</p>"
        )
    return (
        f"<p><b>{facts.num_images:,}</b> images of {lines} line{'s' * (lines != 1)} were scored by "
        f"{escape(facts.engine)} ({escape(facts.why)}); <b>{bad:,}</b> could not be scored. They "
        f"are {compared}.</p>"
    )


def _alerts(alerts: Sequence[str]) -> Iterator[str]:
    if alerts:
        yield "<h2>Alerts</h2><ul class='warnings'>"
        yield from (f"<li>{escape(alert)}</li>" for alert in alerts)
        yield "</ul>"


def _drifts(facts: DayFacts, pictures: _Pictures) -> Iterator[str]:
    found = facts.comparison
    if facts.against is not None:
        yield (
            "<p>Two dates alone do not show how much days differ anyway, so nothing is judged "
            "here; the rates below have both.</p>"
        )
    elif found.drifts:
        yield "<ol class='warnings'>"
        for drift in found.drifts:
            yield f"<li>{escape(sentence(drift, facts.dates, facts.classes))}</li>"
        yield "</ol>"
    elif found.num_compared:
        yield (
            f"<p>Nothing: {found.num_compared} figures of rates, peaks, brightness, contrast and "
            "sharpness were compared with the days before.</p>"
        )
    if found.too_new and facts.against is None:
        yield f"<p>Too few days before to judge: {_listed(found.too_new)}.</p>"
    if found.absent and facts.against is None:
        yield f"<p><b>No image on this date: {_listed(found.absent)}.</b></p>"
    for drift, images in facts.of_drifts:
        if images and facts.against is None:
            what = drift.figure.replace("_", " ")
            name = "" if drift.class_id is None else f" of {facts.classes.get(drift.class_id, '')}"
            yield f"<h3>{escape(f'{what}{name}, {_name(drift.line)}')}</h3><div class='grid'>"
            yield from map(pictures.of, images)
            yield "</div>"


def _rates(facts: DayFacts) -> Iterator[str]:
    shown = [line for line in facts.lines if line.images_T[-1]][:MOST_LINES]
    one_by_one = shown if len(shown) <= NUM_COLORS else []
    if len(facts.lines) > len(shown):
        yield f"<p>{len(shown)} of {len(facts.lines)} lines are shown.</p>"
    was = facts.against or "the days before"
    yield f"<p>Dots: the date, with 95 % intervals. Rings: {escape(was)}.</p>"
    for number, name in sorted(facts.classes.items()):
        rows, places = [], []
        for line in shown:
            images, found = line.images_T, line.found_TC[:, number - 1]
            low, high = wilson(int(found[-1]), int(images[-1]))
            before = int(images[:-1].sum())
            rows.append(
                Interval(
                    label=_name(line.line), value=float(found[-1] / images[-1]), low=low, high=high,
                    before=float(found[:-1].sum() / before) if before else None,
                )
            )  # fmt: skip
            places.append(
                [
                    _name(line.line), f"{int(found[-1]):,}", f"{int(images[-1]):,}",
                    _percent(rows[-1].value), f"{100 * low:.1f}–{_percent(high)}",
                    "–" if rows[-1].before is None else _percent(rows[-1].before),
                ]
            )  # fmt: skip
        total = Series(name="all lines", values=_shares(facts.lines, number - 1))
        several = [
            Series(name=_name(line.line), values=_shares([line], number - 1)) for line in one_by_one
        ]
        yield f"<h3>{escape(name)}</h3><div class='grid'>"
        yield interval_chart(f"{name} by line, {facts.date}", rows)
        if len(facts.dates) > 1:
            yield trend_chart(f"{name} by day", facts.dates, several or [total])
        yield "</div>"
        yield table(("line", "images with it", "images", "rate", "95 % interval", "before"), places)


def _shares(lines: Sequence[LineDays], c: int) -> list[float | None]:
    images = np.sum([line.images_T for line in lines], axis=0)
    found = np.sum([line.found_TC[:, c] for line in lines], axis=0)
    return [
        float(part / whole) if whole else None for part, whole in zip(found, images, strict=True)
    ]


def _areas(facts: DayFacts) -> str:
    rows = [
        [
            facts.classes.get(class_id, class_id), _name(line), f"{num:,}",
            "–" if median is None else f"{median:,}", "–" if high is None else f"{high:,}",
            f"{total:,}",
        ]
        for class_id, line, num, median, high, total in facts.areas[: 10 * MOST_LINES]
    ]  # fmt: skip
    titles = ("class", "line", "images with it", "lower median px", "95th percentile px", "sum px")
    return table(titles, rows, texts=("line",))


def _hours(facts: DayFacts) -> Iterator[str]:
    if not facts.hours:
        return
    yield "<h2>By hour</h2><div class='grid'>"
    places = [str(hour) for hour, *_ in facts.hours]
    for number, name in sorted(facts.classes.items()):
        shares = [counts[number - 1] / images for _, images, counts in facts.hours]
        yield trend_chart(f"{name} by hour", places, [Series(name=name, values=shares)])
    images = [float(images) for _, images, _ in facts.hours]
    yield trend_chart(
        "images by hour", places, [Series(name="images", values=images)], unit="images", factor=1.0
    )
    yield "</div>"


def _images(facts: DayFacts, pictures: _Pictures) -> Iterator[str]:
    colors = {name: color_of(number) for number, name in sorted(facts.classes.items())}
    yield f"<p>Outlines: {legend(colors)}. Areas in pixels; in brackets the peak.</p>"
    if facts.worst:
        yield "<h3>Largest areas</h3><div class='grid'>"
        yield from map(pictures.of, facts.worst)
        yield "</div>"
    else:
        yield "<p>No defect was found.</p>"
    if facts.doubtful:
        yield "<h3>Closest to a threshold</h3><div class='grid'>"
        for image, why in facts.doubtful:
            yield pictures.of(image, why)
        yield "</div>"


def _quarantine(facts: DayFacts) -> str:
    if not facts.quarantine:
        return "<p>Every image could be scored.</p>"
    return table(
        ("code", "images", "for example", "why"),
        [[code, f"{num:,}", key, message] for code, num, key, message in facts.quarantine],
        texts=("for example", "why"),
    )


def _runs(facts: DayFacts) -> str:
    if not facts.runs:
        return "<p>The records of its runs are not in this store.</p>"
    rows = []
    for run in facts.runs:
        rate, seconds = run["images_per_second"], run["seconds"]
        rows.append(
            [
                run["run_id"],
                run["state"] + (f": {run['reason']}" if run["reason"] else ""),
                _number(run["num_scored"]),
                _number(run["num_quarantined"]),
                _number(seconds),
                _number(run["startup_seconds"]),
                "–" if rate is None else f"{rate:,.1f}",
                _longest_step(run),
            ]
        )
    titles = ("run", "state", "scored", "quarantined", "s", "s to the first shard", "images/s",
              "most time in")  # fmt: skip
    return table(titles, rows, texts=("state", "most time in"))


def _longest_step(run: Any) -> str:
    seconds = {name: value for name, value in (run.get("steps") or {}).items() if name in _STEPS}
    if not seconds or not sum(seconds.values()):
        return "–"
    longest = max(seconds, key=seconds.__getitem__)
    return f"{_STEPS[longest]} ({100 * seconds[longest] / sum(seconds.values()):.0f} %)"


def _listed(lines: Sequence[str | None]) -> str:
    return escape(", ".join(map(_name, lines[:MOST_LINES])))


def _name(line: str | None) -> str:
    return "no line" if line is None else f"line {line}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
