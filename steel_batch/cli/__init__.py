"""The command line: one group, one module per command."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from steel_batch import __version__
from steel_batch.cli.backfill import backfill
from steel_batch.cli.build_engine import build_engine
from steel_batch.cli.demo import demo
from steel_batch.cli.doctor import doctor
from steel_batch.cli.engines import engines
from steel_batch.cli.output import HELP
from steel_batch.cli.pack import pack
from steel_batch.cli.plan import plan
from steel_batch.cli.quarantine import quarantine
from steel_batch.cli.query import query
from steel_batch.cli.runs import runs
from steel_batch.cli.score import score
from steel_batch.cli.submit import submit
from steel_batch.cli.synth import synth
from steel_batch.cli.train import train
from steel_batch.cli.verify import gc, verify
from steel_batch.errors import SteelBatchError


@click.group(context_settings=HELP)
@click.version_option(__version__, prog_name="steel-batch")
def cli() -> None:
    """Score steel-surface images of a data lake and query the defects.

    Exit codes: 0 done, 1 error, 2 usage, 3 too many bad images, 4 another run holds the lock, 130
    interrupted (run the same command again to continue).
    """


for command in (
    backfill,
    build_engine,
    demo,
    doctor,
    engines,
    gc,
    pack,
    plan,
    quarantine,
    query,
    runs,
    score,
    submit,
    synth,
    train,
    verify,
):
    cli.add_command(command)


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
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        for again in (signal.SIGINT, signal.SIGTERM):  # it would change the exit code
            signal.signal(again, signal.SIG_IGN)
        click.echo("interrupted: run the same command again to continue.", err=True)
        sys.exit(130)
    except SteelBatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
