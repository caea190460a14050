"""What the command line offers, and how it answers wrong usage.

`python -m tests.cli.test_commands` writes the golden list anew, where a change is meant.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from steel_batch.cli import cli
from steel_batch.cli.output import HELP
from steel_batch.cli.train import training_command
from steel_batch.config import ScoreConfig
from steel_batch.pipeline.backfill_config import BackfillConfig
from tests.cli.command_line import Command, refused

GOLDEN = Path(__file__).parents[1] / "golden" / "commands.txt"


def commands(command: click.Command, path: str = "steel-batch") -> Iterator[str]:
    """Every command with its arguments and flags, one a line."""
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], f"{path} {name}")
        return
    words = [
        p.make_metavar(click.Context(command, **HELP))
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
    context = click.Context(cli, terminal_width=80, **HELP)
    with context:
        _, _, listed = cli.get_help(context).partition("Commands:")
    assert "..." not in listed, "each is described in a sentence that is not cut off"
    assert len(listed.strip().splitlines()) == len(cli.commands)


def every_command(command: click.Command = cli, path: str = "") -> Iterator[click.Command]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every_command(inner, f"{path} {name}")
    else:
        yield training_command() if path == " train" else command


def test_no_help_shows_a_mark_of_clicks() -> None:
    shown = [str(command.name) for command in every_command() if "\\b" in (command.help or "")]
    assert shown == []


def test_every_sentence_of_a_help_begins_as_one() -> None:
    for command in every_command(cli):
        text = " ".join(p for p in (command.help or "").split("\n\n") if "\b" not in p)
        for sentence in re.split(r"(?<=\.)\s+", text):
            assert not sentence[:1].islower(), (command.name, sentence)


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{command.name} {option.opts[0]}"
        for command in every_command()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert silent == []


def test_sizes_and_times_are_shown_in_units_that_people_say() -> None:
    with click.Context(cli.commands["score"], terminal_width=100, **HELP) as context:
        text = " ".join(cli.commands["score"].get_help(context).split())
    assert "--shard-bytes BYTES Most bytes per shard. [default: 64 MiB]" in text
    assert "--merge-bytes BYTES Target size of committed files. [default: 256 MiB]" in text
    for flag in ("--lock-wait", "--lease-seconds", "--decode-seconds"):
        assert f"{flag} SECONDS" in text
    fields = {field.name: field.default for field in dataclasses.fields(ScoreConfig)}
    assert (fields["shard_bytes"], fields["merge_bytes"]) == (64 << 20, 256 << 20)


SHARED = ["score", "backfill", "plan", "quarantine retry"]
"""Commands that take the options of `score`."""


def help_of(name: str) -> str:
    command: click.Command = cli
    for word in name.split():
        command = command.commands[word]  # type: ignore[attr-defined]
    with click.Context(command, terminal_width=100, **HELP) as context:
        return command.get_help(context)


@pytest.mark.parametrize("name", SHARED)
def test_help_shows_an_example_that_the_command_takes_and_its_options_in_groups(name: str) -> None:
    text = help_of(name)
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles[0] == "What to score"
    assert set(titles[1:-1]) <= {"Where it goes", "Engine", "Limits", "Cluster", "Output"}
    assert titles[-1] == "Other options"
    others = " ".join(text.partition("Other options:")[2].split())
    assert others.removeprefix("-h, ") == "--help Show this message and exit."
    example = text.partition("Example:\n")[2].partition("\n\n")[0]
    words = shlex.split(example.replace("\\\n", " "))
    assert words[:2] == ["steel-batch", name.split()[0]]
    command = cli
    for word in name.split():
        command = command.commands[word]  # type: ignore[assignment]
    with command.make_context(name, words[1 + len(name.split()) :], **HELP) as context:
        assert context.params["images"] == "s3://lake/images"


def test_help_of_score_begins_with_the_date() -> None:
    _, _, options = help_of("score").partition("What to score:\n")
    assert options.split()[:2] == ["--date", "DATE"]


@pytest.mark.parametrize("name", SHARED)
def test_options_have_the_defaults_of_their_configuration(name: str) -> None:
    command = cli
    for word in name.split():
        command = command.commands[word]  # type: ignore[assignment]
    fields = {
        field.name: field.default
        for config in (ScoreConfig, BackfillConfig)
        for field in dataclasses.fields(config)
        if field.default not in (None, dataclasses.MISSING) and field.name not in ("date", "limits")
    }
    with click.Context(command, **HELP) as context:
        found = {
            str(option.name): option.type_cast_value(context, option.get_default(context))
            for option in command.params
            if option.name in fields
        }
    assert found == {name: fields[name] for name in found}
    assert len(found) >= 4


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_train_is_helped_with_as_any_other_command(steel_batch: Command, flag: str) -> None:
    done = steel_batch("train", flag)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: steel-batch train [OPTIONS]")
    assert "--test-share" in done.out


@pytest.mark.parametrize("wants_help", [True, False], ids=["-h", "flags"])
def test_train_without_pytorch_shows_its_help_and_says_what_to_install(
    tmp_path: Path, wants_help: bool
) -> None:
    """The flags are checked first; only then is PyTorch needed."""
    (tmp_path / "a.jpg").write_bytes(b"an image")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\na.jpg,1,1 3\n")
    flags = ["--images", str(tmp_path), "--store", str(tmp_path / "store"), "--model", "c"]
    words = ["steel-batch", "train", *(["-h"] if wants_help else flags)]
    script = (
        f"import sys; sys.modules['torch'] = None; sys.argv = {words!r}\n"
        "from steel_batch.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    said = done.stdout + done.stderr
    if wants_help:
        assert (done.returncode, "--test-share" in said) == (0, True), done
    else:
        assert done.returncode == 1, done
        assert (
            "training needs torch, which is not installed. Run `pip install 'steel-batch[train]'`."
            in said
        )


def test_a_folder_for_scratch_files_that_cannot_be_made_is_named(
    steel_batch: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    work = tmp_path / "file" / "work"
    flags = ["--images", tmp_path, "--store", tmp_path, "--model", "m", "--work", work]
    assert refused(steel_batch("train", *flags)) == f"Error: --work {work}: Not a directory."


@pytest.mark.parametrize("job", ["backfill", "build_engine", "pack", "score", "train"])
def test_a_job_is_run_as_its_docstring_says(job: str) -> None:
    assert f"python -m jobs.{job} " in (importlib.import_module(f"jobs.{job}").__doc__ or "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Score a date's images"),
        (["scor"], "No such command 'scor'"),
        (["score"], "Missing option '--date'. Give YYYY-MM-DD"),
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
