"""The command line: one group, one module per command.

Imports next to nothing, so that signals are noted from the first moment on; `group` has the
commands, and `call` runs one.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from steel_batch import interrupt
from steel_batch.cli.search_path import leave_out_working_folder

if TYPE_CHECKING:
    import click

    from steel_batch.cli.group import cli

__all__ = ["cli", "main", "run"]


def __getattr__(name: str) -> Any:
    """Load the group of commands when it is first asked for."""
    if name != "cli":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from steel_batch.cli.group import cli

    return cli


def main(command: str | None = None) -> NoReturn:
    """Run the command line as this process, and exit with the code of what happened.

    Args:
        command: The command that the arguments are of; None where they begin with its name.
    """
    leave_out_working_folder()
    interrupt.install()  # until a command runs, a signal ends the process at once
    from steel_batch.cli.call import call
    from steel_batch.cli.group import cli

    if command is None:
        code = call(cli, prog_name="steel-batch" if sys.argv[0] == "-c" else None)
    else:
        code = call(cli, [command, *sys.argv[1:]], prog_name="steel-batch")
    if interrupt.is_requested():
        # What was held is given back. What libraries do at exit could change the code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(command: click.Command) -> NoReturn:
    """Run a command and exit with the code of what happened."""
    from steel_batch.cli.call import call

    with interrupt.installed():
        code = call(command)
    sys.exit(code)
