"""`steel-batch submit`: run a command on a Ray cluster as a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from steel_batch import interrupt
from steel_batch.cli.output import console, output_option, print_json, say
from steel_batch.cli.train import training_command
from steel_batch.cluster.submit import ClusterJobs
from steel_batch.config import ScoreConfig
from steel_batch.errors import printable
from steel_batch.pack.packing import PackConfig
from steel_batch.pipeline.backfill_config import BackfillConfig

CONFIGS: Final[Mapping[str, tuple[type[Any], ...]]] = {
    "backfill": (ScoreConfig, BackfillConfig),
    "pack": (PackConfig,),
    "plan": (ScoreConfig,),
    "quarantine retry": (ScoreConfig,),
    "score": (ScoreConfig,),
}
"""Configurations that commands build from their flags; building one checks the values."""


@click.command(
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
    help="Address of the Ray head's jobs API: http://head:8265.",
)
@click.option("--no-wait", is_flag=True, help="Print the job's ID and exit.")
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

    Flags and values are checked first, on this machine. The job runs on the head node with the
    cluster's own credentials. Its output is shown as it comes, and its exit code is passed on.
    Ctrl-C stops only this command; the job keeps running.
    """
    _check(context, [command, *arguments])
    jobs = ClusterJobs(address)
    job = jobs.submit([command, *arguments])
    if output == "json":
        print_json({"job": job, "address": address})
    else:
        console.print(f"job {job} on {address}")
    if no_wait:
        return
    try:
        code = jobs.follow(
            job, lambda text: click.echo(_shown(text), nl=False, err=output == "json")
        )
    except interrupt.Interrupted:
        raise interrupt.Interrupted(
            f"interrupted: job {job} keeps running on {address}. To follow it: `ray job logs {job} "
            f"--follow`. To stop it: `ray job stop {job}`."
        ) from None
    if code:
        raise click.exceptions.Exit(code)


def _shown(text: str) -> str:
    """Escape control characters in a job's output, except tabs."""
    return "\t".join(printable(part) for part in text.split("\t"))


def _check(context: click.Context, words: list[str]) -> None:
    """Refuse a command, flag or value that the job would refuse; runs nothing."""
    if any(word.split("=")[0] == "--config" for word in words):
        raise click.UsageError(
            "--config is a file on this machine, which the job cannot read: give its settings as "
            "flags."
        )
    command = context.parent.command if context.parent else None
    path: list[str] = []
    while isinstance(command, click.Group):
        known = sorted(set(command.commands) - {"submit"})
        name = words[len(path)] if len(path) < len(words) else ""
        if name not in known:
            what = f"command {name!r}" if name else "command"
            raise click.UsageError(
                f"cannot submit {' '.join([*path, what])}: expected one of: {', '.join(known)}."
            )
        path.append(name)
        command = training_command() if path == ["train"] else command.commands[name]
    if command is None:
        raise click.UsageError("submit needs a command of steel-batch.")
    name, arguments = " ".join(path), words[len(path) :]
    with command.make_context(name, arguments, parent=context.parent) as parsed:
        values = parsed.params
    for config in CONFIGS.get(name, ()):
        fields = {field.name for field in dataclasses.fields(config)}
        config(**{field: value for field, value in values.items() if field in fields})
    for flag in ("images", "out", "store"):
        place = values.get(flag)
        if place and "://" not in place and not Path(place).is_absolute():
            say(
                f"Warning: --{flag} {place} is a relative path, read in the job's folder on the "
                "head node; give s3://… or the absolute path of a folder that every node has."
            )
