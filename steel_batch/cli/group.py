"""The group of all commands; each command is a module of this package."""

from __future__ import annotations

from typing import Final

import click

from steel_batch import __version__
from steel_batch.cli.lazy import LazyGroup
from steel_batch.cli.output import HELP

COMMANDS: Final = {
    "backfill": (
        "steel_batch.cli.backfill:backfill",
        "Score many dates of the lake, each as a run of its own.",
    ),
    "build-engine": (
        "steel_batch.cli.build_engine:build_engine",
        "Compile an engine into a plan for this machine.",
    ),
    "demo": (
        "steel_batch.cli.demo:demo",
        "Generate strip images, score them and query the results.",
    ),
    "doctor": ("steel_batch.cli.doctor:doctor", "Check what scoring needs."),
    "engines": (
        "steel_batch.cli.engines:engines",
        "List, show, compare, promote and roll back engines.",
    ),
    "export": (
        "steel_batch.cli.export:export",
        "Write defects for Kaggle, COCO, CVAT, FiftyOne or as PNG.",
    ),
    "gc": ("steel_batch.cli.verify:gc", "Delete files that no run and no table needs."),
    "pack": ("steel_batch.cli.pack:pack", "Pack images into tar or Parquet containers."),
    "plan": ("steel_batch.cli.plan:plan", "Show what score would read, without writing anything."),
    "quarantine": (
        "steel_batch.cli.quarantine:quarantine",
        "List images that could not be scored, or try them again.",
    ),
    "query": (
        "steel_batch.cli.query:query",
        "Run SQL over a store: its tables, runs and engines.",
    ),
    "report": (
        "steel_batch.cli.report:report",
        "Write a page about a date, or about two engines.",
    ),
    "runs": ("steel_batch.cli.runs:runs", "List runs, or show what happened in one."),
    "score": ("steel_batch.cli.score:score", "Score a date's images and commit one row per image."),
    "show": (
        "steel_batch.cli.show:show",
        "Picture scored images with their defects outlined.",
    ),
    "submit": ("steel_batch.cli.submit:submit", "Run a command on a Ray cluster as a job."),
    "synth": ("steel_batch.cli.synth:synth", "Generate strip images with known defects."),
    "train": ("steel_batch.cli.train:train", "Train a model and register it as a new version."),
    "upgrade": (
        "steel_batch.cli.upgrade:upgrade",
        "Bring the tables of an earlier build up to date.",
    ),
    "verify": ("steel_batch.cli.verify:verify", "Check every committed file, row count and run."),
}
"""Where each command is defined, and its line in the list of commands."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings=HELP)
@click.version_option(__version__, prog_name="steel-batch")
def cli() -> None:
    """Score steel-surface images of a data lake and query the defects.

    Exit codes: 0 success; 1 error; 2 invalid flag, value, configuration file or environment
    variable; 3 too many bad images; 4 another run holds the lock; 130 interrupted (run the same
    command again to resume).
    """
