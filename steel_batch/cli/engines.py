"""`steel-batch engines`: the versions of a store's models and the aliases that name them."""

from __future__ import annotations

import json

import click
from rich.table import Table

from steel_batch.cli.output import (
    answer,
    endpoint_option,
    output_option,
    print_json,
    store_option,
)
from steel_batch.lake import Lake
from steel_batch.registry import list_aliases, list_models, list_versions, load_engine


@click.group()
def engines() -> None:
    """List and show engines."""


@engines.command("list")
@store_option
@endpoint_option
@output_option
def list_(store: str, endpoint_url: str | None, output: str) -> None:
    """List every version of every model, and its aliases."""
    lake = Lake(store, endpoint_url=endpoint_url)
    rows = []
    for model in list_models(lake):
        aliases = list_aliases(lake, model)
        for card in list_versions(lake, model):
            names = [alias for alias, version in aliases.items() if version == card.version]
            rows.append({"engine": card.name, "created": card.created, "aliases": names})
    rows.append(
        {"engine": load_engine("demo", store=None).card.name, "created": "", "aliases": ["demo"]}
    )
    if output == "json":
        print_json(rows)
        return
    table = Table("engine", "created", "aliases", box=None, pad_edge=False)
    for row in rows:
        table.add_row(str(row["engine"]), str(row["created"]), ", ".join(row["aliases"]))
    answer.print(table)


@engines.command("show")
@click.argument("engine")
@click.option("--store", metavar="URL", help="Folder or s3:// prefix of the registry.")
@endpoint_option
def show(engine: str, store: str | None, endpoint_url: str | None) -> None:
    """Show an engine's card as JSON."""
    lake = Lake(store, endpoint_url=endpoint_url) if store else None
    card = load_engine(engine, store=lake).card
    click.echo(json.dumps(json.loads(card.to_json()), indent=2))
