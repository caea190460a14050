"""Run one command: turn what it raises into an error message and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from steel_batch import interrupt
from steel_batch.cli.output import HELP
from steel_batch.cli.stdout import checked_stdout
from steel_batch.errors import SteelBatchError, printable, redacted


def call(
    command: click.Command,
    arguments: Sequence[str] | None = None,
    prog_name: str | None = None,
) -> int:
    """Run a command; a user's mistake is reported as one paragraph, never as a traceback.

    A signal interrupts the command at a safe point, so that locks are released: see `interrupt`.
    A stdout that cannot be written is an error, and one whose reader ended is a quiet one.

    Args:
        command: The command or group to run.
        arguments: The arguments; by default those of this process.
        prog_name: The program name in usage messages; by default that of this process.

    Returns:
        The exit code; always 130 after a signal requested a stop.
    """
    message = ""
    try:
        with checked_stdout(), interrupt.noted():
            code = command(arguments, prog_name, standalone_mode=False, **HELP) or 0
    except click.exceptions.Exit as done:
        code = done.exit_code
    except click.UsageError as error:
        code = _refuse_usage(error)
    except click.ClickException as error:
        code = refuse(error.format_message(), error.exit_code)
    except interrupt.Interrupted as stopped:
        message = str(stopped) or interrupt.MESSAGE
    except (click.Abort, KeyboardInterrupt):
        message = interrupt.MESSAGE
    except SteelBatchError as error:
        code = refuse(str(error), error.exit_code)
    except Exception:  # a library may have wrapped the interruption
        if not interrupt.is_requested():
            raise
    if message or interrupt.is_requested():
        click.echo(printable(message or interrupt.MESSAGE), err=True)
        return interrupt.EXIT_CODE
    return int(code)


def refuse(message: str, code: int) -> int:
    """Print an error message in the common form; return the exit code."""
    first, *others = printable(redacted(message)).split("\n")
    # Every further line belongs to this message, so indent it.
    text = "\n".join([first, *(f"  {line}" if line else "" for line in others)])
    click.echo(f"Error: {text}", err=True)
    return code


def _refuse_usage(error: click.UsageError) -> int:
    """Print a usage error, and how to list the flags."""
    if error.ctx is None:
        return refuse(error.format_message(), error.exit_code)
    if type(error).__name__ == "NoArgsIsHelpError":  # click has it from 8.2 on
        error.show()
        return error.exit_code
    message = error.format_message()
    if not message.endswith((".", "?", ")")):
        message += "."
    return refuse(f"{message} See `{error.ctx.command_path} -h`.", error.exit_code)
