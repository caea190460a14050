"""`steel-batch train`: pass the flags to the training package, which is imported only then."""

from __future__ import annotations

import importlib

import click

from steel_batch.cli.output import HELP


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a model on labelled images and register it as a new version."""
    training_command().main(
        args=list(arguments), prog_name="steel-batch train", standalone_mode=False, **HELP
    )


def training_command() -> click.Command:
    """Import the training command by name: this package must not depend on training."""
    command: click.Command = importlib.import_module("training.command").train
    return command
