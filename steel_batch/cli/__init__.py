"""The command line: one group of commands, one module per command.

This package imports almost nothing, so that signals are handled from the start. `group` lists the
commands, and `call` runs one.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from steel_batch import interrupt
from steel_batch.cli.search_path import leave_out_working_folder

if TYPE_CHECKING:
    import click

    from steel_batch.cli.group import cli

__all__ = ["cli", "main", "run"]


def __getattr__(name: str) -> Any:
    """Import the group of commands on first access."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from steel_batch.cli.group import cli

    return cli


def main(command: str | None = None) -> NoReturn:
    """Run the command line as this process, and exit with its exit code.

    Args:
        command: The command to run, such as ``score``; None if the arguments begin with its name.
    """
    leave_out_working_folder()
    interrupt.install()  # until a command runs, a signal ends the process at once
    from steel_batch.cli.call import call
    from steel_batch.cli.group import cli

    if command is None:
        code = call(cli, prog_name="steel-batch" if sys.argv[0] == "-c" else None)
    else:
        code = call(cli, [command, *sys.argv[1:]], prog_name="steel-batch")
    # At its exit, PyTorch's compiler prints thirty lines of what it leaked, below our own message.
    if interrupt.is_requested() or "torch" in sys.modules:
        interrupt.exit_now(code)
    gc.freeze()  # Python would search all imported modules for garbage: a tenth of a short command
    sys.exit(code)


def run(command: click.Command) -> NoReturn:
    """Run a command and exit with its exit code."""
    from steel_batch.cli.call import call

    with interrupt.installed():
        code = call(command)
    sys.exit(code)
