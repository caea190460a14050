"""What the command line offers, and how it answers wrong usage.

`python -m tests.cli.test_commands` writes the golden list anew, where a change is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from steel_batch.cli import cli
from tests.cli.command_line import Command

GOLDEN = Path(__file__).parents[1] / "golden" / "commands.txt"


def commands(command: click.Command, path: str = "steel-batch") -> Iterator[str]:
    """Every command with its arguments and flags, one a line."""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], f"{path} {name}")
        return
    words = [
        p.make_metavar(click.Context(command))
        for p in command.params
        if p.param_type_name == "argument"
    ]
    flags = sorted(flag for p in command.params if isinstance(p, click.Option) for flag in p.opts)
    yield " ".join([path, *words, *flags])


def test_commands_and_flags_are_those_of_the_golden_list() -> None:
    found = list(commands(cli))
    assert found == GOLDEN.read_text().splitlines(), (
        "if it is meant: python -m tests.cli.test_commands"
    )


def test_every_command_that_answers_can_answer_in_json() -> None:
    shows_pictures, hands_on = "demo", "train"
    for line in commands(cli):
        name = line.removeprefix("steel-batch ")
        if not name.startswith((shows_pictures, hands_on)):
            assert "--output" in name.split()


def test_the_list_of_commands_fits_a_terminal_of_80_columns() -> None:
    context = click.Context(cli, terminal_width=80)
    with context:
        _, _, listed = cli.get_help(context).partition("Commands:")
    assert "..." not in listed, "each is described in a sentence that is not cut off"
    assert len(listed.strip().splitlines()) == len(cli.commands)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Score a date's images"),
        (["scor"], "No such command 'scor'"),
        (["score"], "Missing option '--images'"),
        (["verify", "--store", "x", "--output", "xml"], "'xml' is not one of"),
        (["synth", "--out", "x", "--num-images", "many"], "'many' is not a valid integer"),
        (["query", "--store", "x"], "Missing argument 'SQL'"),
        (["verify"], "Missing option '--store'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_usage_exits_2(steel_batch: Command, arguments: list[str], expected: str) -> None:
    done = steel_batch(*arguments)
    assert done.code == 2
    assert expected in done.err + done.out


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("".join(f"{line}\n" for line in commands(cli)))
