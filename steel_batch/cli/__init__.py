"""The command line: one group, one module per command."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Final

import click

from steel_batch import __version__
from steel_batch.cli.lazy import LazyGroup
from steel_batch.cli.output import HELP, printable
from steel_batch.errors import SteelBatchError

COMMANDS: Final = {
    "backfill": (
        "steel_batch.cli.backfill:backfill",
        "Score many dates of the lake, each as a run of its own.",
    ),
    "build-engine": (
        "steel_batch.cli.build_engine:build_engine",
        "Compile an engine into a plan for this machine.",
    ),
    "demo": ("steel_batch.cli.demo:demo", "Draw strip images, score them and query the answer."),
    "doctor": ("steel_batch.cli.doctor:doctor", "Check what scoring needs."),
    "engines": (
        "steel_batch.cli.engines:engines",
        "List, show, compare, promote and roll back engines.",
    ),
    "gc": ("steel_batch.cli.verify:gc", "Delete what no run and no log needs any more."),
    "pack": ("steel_batch.cli.pack:pack", "Pack images into shards of a stated size."),
    "plan": ("steel_batch.cli.plan:plan", "Show what score would read; nothing is written."),
    "quarantine": (
        "steel_batch.cli.quarantine:quarantine",
        "List images that could not be scored, or try them again.",
    ),
    "query": (
        "steel_batch.cli.query:query",
        "Answer SQL over predictions, class_summaries and quarantine.",
    ),
    "runs": ("steel_batch.cli.runs:runs", "List runs, or show what happened in one."),
    "score": ("steel_batch.cli.score:score", "Score a date's images and commit one row per image."),
    "submit": ("steel_batch.cli.submit:submit", "Run a command on a Ray cluster as a job."),
    "synth": ("steel_batch.cli.synth:synth", "Draw strip images with known defects."),
    "train": ("steel_batch.cli.train:train", "Train a model and register it as a new version."),
    "upgrade": (
        "steel_batch.cli.upgrade:upgrade",
        "Bring the tables of an earlier build up to date.",
    ),
    "verify": ("steel_batch.cli.verify:verify", "Check every committed file, row count and run."),
}
"""Where each command is, and its line in the list of commands."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings=HELP)
@click.version_option(__version__, prog_name="steel-batch")
def cli() -> None:
    """Score steel-surface images of a data lake and query the defects.

    Exit codes: 0 done, 1 error, 2 a flag, its value, a configuration file or the environment is
    wrong, 3 too many bad images, 4 another run holds the lock, 130 interrupted (run the same
    command again to continue).
    """


def main() -> None:
    """Run the command line and exit with the code of what happened."""
    run(cli)


def run(command: click.Command) -> None:
    """Run a command; a user's mistake becomes one paragraph, never a traceback.

    SIGTERM, such as a scheduler's or a spot reclaim's, interrupts like Ctrl-C: locks are released.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(command(standalone_mode=False, **HELP) or 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        sys.exit(_refuse_usage(error))
    except click.ClickException as error:
        sys.exit(refuse(error.format_message(), error.exit_code))
    except (click.Abort, KeyboardInterrupt):
        for again in (signal.SIGINT, signal.SIGTERM):  # it would change the exit code
            signal.signal(again, signal.SIG_IGN)
        click.echo("interrupted: run the same command again to continue.", err=True)
        sys.exit(130)
    except SteelBatchError as error:
        sys.exit(refuse(str(error), error.exit_code))


def refuse(message: str, code: int) -> int:
    """Show an error in the one form that errors have here; returns the exit code."""
    click.echo(f"Error: {printable(message)}", err=True)
    return code


def _refuse_usage(error: click.UsageError) -> int:
    """What click found wrong, and where the flags are listed."""
    if error.ctx is None:
        return refuse(error.format_message(), error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError":  # click has it from 8.2 on
        error.show()
        return error.exit_code
    message = error.format_message()
    if not message.endswith((".", "?", ")")):
        message += "."
    return refuse(f"{message} See `{error.ctx.command_path} -h`.", error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
