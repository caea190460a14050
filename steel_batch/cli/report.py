"""`steel-batch report`: a date, or two engines compared, as one page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from steel_batch.answers.open_store import OpenStore
from steel_batch.answers.whole import check_new, new_file
from steel_batch.cli.completion import complete_date, complete_engine
from steel_batch.cli.output import (
    counted,
    endpoint_option,
    existing_store,
    naming,
    output_option,
    print_json,
    say,
    store_option,
)
from steel_batch.cli.values import DATE, DATES, PLACE
from steel_batch.exports.selection import days_of
from steel_batch.layout import check_date
from steel_batch.report.comparison_page import compare_engines, render_comparison
from steel_batch.report.day_facts import DayFacts, engine_of, read_facts
from steel_batch.report.day_figures import DAYS_BEFORE, DayFigures
from steel_batch.report.day_page import render_day
from steel_batch.report.scored_images import ScoredImages


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="HTML file to write. It must not exist yet.",
)
@store_option
@endpoint_option
@click.option(
    "--date",
    type=DATES,
    metavar="DATE",
    shell_complete=complete_date,
    help="The date. With --compare also a month (2026-11) or a year; all dates if left out.",
)
@click.option(
    "--compare",
    type=(str, str),
    metavar="ENGINE ENGINE",
    help="Compare these two engines instead of reporting on a date.",
)
@click.option(
    "--against",
    type=DATE,
    metavar="DATE",
    shell_complete=complete_date,
    help="Compare with this date only, instead of the --days before.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=DAYS_BEFORE,
    show_default=True,
    help="Number of days before the date to compare with.",
)
@click.option(
    "--engine",
    metavar="ENGINE",
    shell_complete=complete_engine,
    help="Engine that made the rows, as <model>-<12 hex digits>. Default: the date's engine in the "
    "view `current`.",
)
@click.option(
    "--images",
    type=PLACE,
    metavar="URL",
    help="Location of the images, if they were moved since their run.",
)
@output_option
def report(
    out: Path,
    store: str,
    endpoint_url: str | None,
    date: str | None,
    compare: tuple[str, str] | None,
    against: str | None,
    days: int,
    engine: str | None,
    images: str | None,
    output: str,
) -> None:
    """Write an HTML report about a date, or a comparison of two engines.

    The report of a date shows what was scored, the defects, and the figures that differ from the
    days before. With --compare, it shows the images on which two engines disagree about a class
    that both have, and lists the classes that only one has. It is one HTML file of at most 5 MB
    with its images, without scripts; it loads nothing from the network.
    """
    if compare is None and date is None:
        raise click.UsageError("give --date, or two engines with --compare.")
    if compare is not None and (against or engine):
        raise click.UsageError("--compare takes neither --against nor --engine.")
    with naming("--out", out):
        check_new(out)
    lake = existing_store(store, endpoint_url)
    with OpenStore(lake) as opened:
        pixels = ScoredImages(lake, images)
        if compare is not None:
            page, said = _compare(opened, compare, date, pixels)
        else:
            day = check_date(date or "")
            name, why = engine_of(opened, day) if engine is None else (engine, "as asked")
            figures = DayFigures(lambda: opened, day, name, against=against, num_days=days)
            facts = read_facts(lake, figures, why=why)
            page, said = render_day(facts, pixels), _said(figures, facts)
    with naming("--out", out), new_file(out) as file:
        file.write(page.encode())
    if output == "json":
        print_json({"out": str(out), **said})
        return
    for text in said.get("drift", []):
        say(text)
    for each in said.get("not_compared", []):
        say(
            f"class {each['class_name']} is not compared: only {each['engine']} has it, and found "
            f"it on {counted(each['num_defective'], 'image')}"
        )
    say(f"the report is in {out}")


def _said(figures: DayFigures, facts: DayFacts) -> dict[str, Any]:
    return {
        "date": facts.date,
        "engine": facts.engine,
        "num_images": facts.num_images,
        "num_quarantined": facts.num_quarantined,
        "drift": figures.drifts,
    }


def _compare(
    store: OpenStore, engines: tuple[str, str], date: str | None, images: ScoredImages
) -> tuple[str, dict[str, Any]]:
    dates = None if date is None else days_of(date)
    found = compare_engines(store, engines, dates)
    period = "of all dates" if date is None else f"of {date}"
    page = render_comparison(store, engines, found, images, period=period)
    agreement = {
        each.class_name: {
            "both": each.both, "only_first": each.only[0], "only_second": each.only[1],
            "neither": each.neither,
        }
        for each in found.agreements
    }  # fmt: skip
    return page, {
        "engines": list(engines),
        "agreement": agreement,
        "not_compared": [dataclasses.asdict(each) for each in found.not_compared],
    }
