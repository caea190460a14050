"""One call of a command: what it raises becomes a paragraph and an exit code."""

from __future__ import annotations

from collections.abc import Sequence

import click

from steel_batch import interrupt
from steel_batch.cli.output import HELP
from steel_batch.errors import SteelBatchError, printable, redacted


def call(
    command: click.Command,
    arguments: Sequence[str] | None = None,
    prog_name: str | None = None,
) -> int:
    """Run a command; a user's mistake becomes one paragraph, never a traceback.

    A signal interrupts it where that is safe, so that locks are released: see `interrupt`.

    Args:
        command: The command or group.
        arguments: Those of this process by default.
        prog_name: What usage calls it; by default what this process was started as.

    Returns:
        The exit code; 130 whatever became of the command, once a signal asked to stop.
    """
    message = ""
    try:
        with interrupt.noted():
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
    except Exception:  # what a library made of an interruption
        if not interrupt.is_requested():
            raise
    if message or interrupt.is_requested():
        click.echo(printable(message or interrupt.MESSAGE), err=True)
        return interrupt.EXIT_CODE
    return int(code)


def refuse(message: str, code: int) -> int:
    """Show an error in the one form that errors have here; returns the exit code."""
    first, *others = printable(redacted(message)).split("\n")
    # What follows is of this message, whatever it looks like.
    text = "\n".join([first, *(f"  {line}" if line else "" for line in others)])
    click.echo(f"Error: {text}", err=True)
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
