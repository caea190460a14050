"""`steel-batch submit`: run a command on a Ray cluster as a job."""

from __future__ import annotations

import click

from steel_batch.cli.output import console, output_option, print_json
from steel_batch.pipeline.submit import ClusterJobs


@click.command(
    short_help="Run a command on a Ray cluster as a job.",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
@click.option(
    "--address",
    required=True,
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="The head's jobs server, http://head:8265.",
)
@click.option("--no-wait", is_flag=True, help="Print the job's id and leave.")
@output_option
@click.argument("command")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def submit(
    context: click.Context,
    address: str,
    no_wait: bool,
    output: str,
    command: str,
    arguments: tuple[str, ...],
) -> None:
    """Run COMMAND with its flags on a Ray cluster: submit --address URL score --images … --store ….

    The flags are checked here first. The job runs on the head with the cluster's own credentials;
    what it prints is shown as it comes, and its exit code is this command's. Ctrl-C leaves the job
    running.
    """
    _check(context, command, list(arguments))
    jobs = ClusterJobs(address)
    job = jobs.submit([command, *arguments])
    if output == "json":
        print_json({"job": job, "address": address})
    else:
        console.print(f"job {job} on {address}")
    if no_wait:
        return
    code = jobs.follow(job, lambda text: click.echo(text, nl=False, err=output == "json"))
    if code:
        raise click.exceptions.Exit(code)


def _check(context: click.Context, name: str, arguments: list[str]) -> None:
    """Refuse a command or flags that the job would refuse."""
    group = context.parent.command if context.parent else None
    if not isinstance(group, click.Group):
        raise click.UsageError("submit is a command of steel-batch.")
    command = group.commands.get(name)
    if command is None or name == "submit":
        known = ", ".join(sorted(set(group.commands) - {"submit"}))
        raise click.UsageError(f"there is no command {name!r} to submit; there are: {known}.")
    if any(argument.split("=")[0] == "--config" for argument in arguments):
        raise click.UsageError("--config names a file on this machine; submit takes flags alone.")
    with command.make_context(name, arguments, parent=context.parent, resilient_parsing=False):
        pass
