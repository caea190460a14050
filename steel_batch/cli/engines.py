"""`steel-batch engines`: the versions of a store's models, and the aliases that point to them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from steel_batch.cli.completion import complete_engine
from steel_batch.cli.output import (
    Table,
    answer,
    counted,
    endpoint_option,
    existing_store,
    naming,
    output_option,
    print_json,
    print_line,
    print_table,
    registry_option,
    single_writer_option,
)
from steel_batch.cli.values import STORE
from steel_batch.errors import EngineError, FormatError
from steel_batch.lake import Lake
from steel_batch.lake.probe import writable
from steel_batch.registry import aliases
from steel_batch.registry.aliases import AliasEntry
from steel_batch.registry.card import Card
from steel_batch.registry.card_diff import Difference, differences, judged_on_the_same
from steel_batch.registry.evidence import class_figures, headline, too_few
from steel_batch.registry.figures import known_figures
from steel_batch.registry.promotion import Figure, Move, Tolerance, promote, rollback
from steel_batch.registry.signatures import sign_model
from steel_batch.registry.versions import list_aliases, list_models, list_versions, load_engine
from steel_batch.report.engine_page import page_of

LONGEST = 40
"""Longest value that `diff` shows whole, in characters."""

lookup_option = click.option(
    "--store",
    type=STORE,
    metavar="URL",
    help="Folder or s3:// prefix of the registry. Not needed for the engine 'demo'.",
)
why_option = click.option(
    "--why", default="", metavar="TEXT", help="Reason, recorded in the alias's history."
)


@click.group()
def engines() -> None:
    """List, show, compare, promote and roll back engines."""


@engines.command("list")
@registry_option
@endpoint_option
@output_option
def list_(store: str, endpoint_url: str | None, output: str) -> None:
    """List every version of every model, and its aliases; exit 1 if one of them cannot be used."""
    lake = existing_store(store, endpoint_url)
    rows, errors = [], []
    for model in list_models(lake):
        named = list_aliases(lake, model)
        for version, card in list_versions(lake, model).items():
            created = card.created if isinstance(card, Card) else _unusable("card", card)
            names = [alias for alias, meant in named.items() if meant == version]
            rows.append({"engine": f"{model}-{version}", "created": created, "aliases": names})
            if not isinstance(card, Card):
                errors.append(str(card))
        for alias, meant in named.items():
            if not isinstance(meant, str):
                created = _unusable("alias", meant)
                rows.append({"engine": f"{model}@{alias}", "created": created, "aliases": []})
                errors.append(str(meant))
    shipped = load_engine("demo", store=None).card
    rows.append({"engine": shipped.name, "created": shipped.created, "aliases": []})
    if output == "json":
        print_json(rows)
    else:
        table = Table("engine", "created", "aliases", box=None, pad_edge=False)
        for row in rows:
            table.add_row(str(row["engine"]), str(row["created"]), ", ".join(row["aliases"]))
        print_table(table)
    if errors:
        raise EngineError(" ".join(errors))


@engines.command("show")
@click.argument("engine", shell_complete=complete_engine)
@lookup_option
@endpoint_option
@click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write an HTML page: the training report, or the card if there is no report.",
)
@output_option
def show(
    engine: str, store: str | None, endpoint_url: str | None, page: Path | None, output: str
) -> None:
    """Show an engine's card; for <model>@<alias>, also the alias's history."""
    lake = Lake(store, endpoint_url=endpoint_url) if store else None
    found = load_engine(engine, store=lake, endpoint_url=endpoint_url)
    card = found.card
    model, at, alias = engine.partition("@")
    moves = aliases.history(lake, model, alias) if lake is not None and at else []
    if page is not None:
        with naming("--page", page):
            page.write_text(page_of(found), encoding="utf-8")
    if output == "json":
        print_json(
            {"card": json.loads(card.to_json()), "moves": list(map(dataclasses.asdict, moves))}
        )
        return
    _show_card(card)
    if moves:
        answer.print(f"\n{engine}")
        print_table(_moves(moves))


@engines.command("promote")
@click.argument("engine", shell_complete=complete_engine)
@click.option(
    "--alias",
    default="production",
    show_default=True,
    metavar="NAME",
    help="Alias to point to ENGINE.",
)
@registry_option
@endpoint_option
@click.option(
    "--tolerance-dice",
    type=click.FloatRange(0, 1),
    default=Tolerance().dice,
    show_default=True,
    help="Largest loss accepted in Kaggle Dice.",
)
@click.option(
    "--tolerance-class",
    type=click.FloatRange(0, 1),
    default=Tolerance().per_class,
    show_default=True,
    help="Largest loss accepted per class, in Dice where present, recall and false alarms.",
)
@click.option("--force", is_flag=True, help="Promote it even if a check fails; needs --why.")
@why_option
@single_writer_option
@output_option
def promote_(
    engine: str,
    alias: str,
    store: str,
    endpoint_url: str | None,
    tolerance_dice: float,
    tolerance_class: float,
    force: bool,
    why: str,
    unsafe_single_writer: bool,
    output: str,
) -> None:
    """Point <model>@<alias> to ENGINE, from the next run on.

    ENGINE is <model>-<12 hex digits>, or another alias of the model. The promotion is refused if
    ENGINE is worse than the alias's present engine, was evaluated on other held-out images, has
    other classes, or was rolled back from before.
    """
    if force and not why.strip():
        raise click.UsageError('--force needs a reason for the history: add --why "…".')
    move = promote(
        writable(Lake(store, endpoint_url=endpoint_url), single_writer=unsafe_single_writer),
        engine,
        alias,
        tolerance=Tolerance(dice=tolerance_dice, per_class=tolerance_class),
        force=force,
        why=why.strip(),
    )
    _answer_move(move, output)


@engines.command("rollback")
@click.argument("engine", metavar="MODEL@ALIAS", shell_complete=complete_engine)
@registry_option
@endpoint_option
@why_option
@single_writer_option
@output_option
def rollback_(
    engine: str,
    store: str,
    endpoint_url: str | None,
    why: str,
    unsafe_single_writer: bool,
    output: str,
) -> None:
    """Point an alias back to its previous version, from the next run on.

    Rolling back again goes one version further back. Existing rows keep the engine that scored
    them.
    """
    lake = writable(Lake(store, endpoint_url=endpoint_url), single_writer=unsafe_single_writer)
    move = rollback(lake, engine, why=why.strip())
    _answer_move(move, output)


@engines.command("sign")
@click.argument("model")
@registry_option
@endpoint_option
@single_writer_option
@output_option
def sign(
    model: str, store: str, endpoint_url: str | None, unsafe_single_writer: bool, output: str
) -> None:
    """Sign every card, alias and plan record of MODEL with the key in STEEL_BATCH_SIGNING_KEY.

    With that key set, new versions, aliases and plans are signed when they are written. Use this
    command for older versions, after you have checked them.
    """
    lake = writable(existing_store(store, endpoint_url), single_writer=unsafe_single_writer)
    keys = sign_model(lake, model)
    if output == "json":
        print_json({"model": model, "signed": keys})
    else:
        answer.print(f"signed {counted(len(keys), 'document')} of {model}")


@engines.command("diff")
@click.argument("engine_a", metavar="A", shell_complete=complete_engine)
@click.argument("engine_b", metavar="B", shell_complete=complete_engine)
@lookup_option
@endpoint_option
@output_option
def diff(
    engine_a: str, engine_b: str, store: str | None, endpoint_url: str | None, output: str
) -> None:
    """Show what differs between two engines' cards: settings, figures, recipe, files."""
    lake = Lake(store, endpoint_url=endpoint_url) if store else None
    a, b = (
        load_engine(spec, store=lake, endpoint_url=endpoint_url).card
        for spec in (engine_a, engine_b)
    )
    found = differences(a, b)
    comparable = judged_on_the_same(a, b)
    if output == "json":
        print_json(
            {
                "a": a.name,
                "b": b.name,
                "judged_on_the_same": comparable,
                "differences": list(map(dataclasses.asdict, found)),
            }
        )
        return
    if a.name == b.name:
        answer.print(f"{a.name}: both names mean the same engine")
        return
    if not comparable:
        answer.print("Evaluated on different held-out images: do not compare the figures.")
    for card in (a, b):
        lack = too_few(card.metrics, card.classes)
        if lack is not None:
            answer.print(f"{card.name} was evaluated on too few images to compare: {lack}.")
    print_table(_differing(a, b, found))


def _unusable(what: str, error: EngineError | FormatError) -> str:
    """What `list` shows in place of a date."""
    is_newer = isinstance(error, FormatError)
    return f"{what} is of a newer format" if is_newer else f"{what} cannot be used"


def _answer_move(move: Move, output: str) -> None:
    if output == "json":
        print_json(move)
        return
    if not move.changed:
        since = f"since {move.entry.at} by {move.entry.by}"
        answer.print(f"{move.alias} already points to {move.engine}, {since}; nothing was changed")
        return
    before = f", before: {move.previous}" if move.previous else ", its first promotion"
    answer.print(f"{move.alias} now points to {move.engine}{before}")
    if move.comparison is None:
        if move.entry.action == "promote":
            answer.print("There was no earlier engine to compare it with.")
        return
    for refusal in move.entry.checks["refusals"]:
        answer.print(f"promoted with --force although {refusal}")
    if move.comparison.too_few is not None:
        answer.print(
            f"Both were evaluated on too few images to compare: {move.comparison.too_few}."
        )
    if move.comparison.figures and not move.entry.forced:
        print_table(_compared(move.comparison.figures))


def _show_card(card: Card) -> None:
    post = card.post_process
    answer.print(f"{card.name}, created {card.created}")
    answer.print(
        f"  input {card.height}×{card.width}, other sizes are "
        f"{'scaled' if post.resize == 'fit' else 'quarantined'}; precisions "
        f"{', '.join(graph.precision for graph in card.graphs)}"
    )
    figures = known_figures(card.metrics, card.classes)
    if "kaggle_dice" in figures:
        num_images = figures.get("num_images")
        images = "held-out images" if num_images is None else counted(num_images, "held-out image")
        answer.print(f"  evaluated on {images}: {headline(figures, card.classes)}")
    table = _table("class", "threshold", "min. area px", "images", "Dice", "recall", "false alarms")
    for row, threshold, area_px in zip(
        class_figures(figures, card.classes), card.thresholds, post.min_area_px, strict=True
    ):
        shares = (row.present_dice, row.recall, row.false_alarm_rate)
        table.add_row(row.name, _text(threshold), _text(area_px), row.images, *shares)
    print_table(table)
    for note in card.notes:
        print_line(note)


def _moves(entries: list[AliasEntry]) -> Table:
    """Show an alias's history, newest entry first."""
    table = Table("at", "", "means", "by", "why", box=None, pad_edge=False)
    for entry in reversed(entries):
        action = "forced" if entry.forced else entry.action
        table.add_row(entry.at, action, entry.version, entry.by, entry.why)
    return table


def _compared(figures: tuple[Figure, ...]) -> Table:
    table = _table("", "before", "now", "worse by", "tolerance")
    for figure in figures:
        loss = f"{figure.loss:.4f}" if figure.loss > 0 else "–"
        values = (f"{figure.current:.4f}", f"{figure.candidate:.4f}", loss)
        table.add_row(figure.name, *values, f"{figure.tolerance:.4f}")
    return table


def _differing(a: Card, b: Card, found: list[Difference]) -> Table:
    table = Table("", a.name, b.name, box=None, pad_edge=False)
    for one in found:
        table.add_row(one.name, _text(one.a), _text(one.b))
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(first, *numbers, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
