"""What the README and the pages below docs/ name is there: commands, flags, files, targets."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from steel_batch.cli import cli
from steel_batch.cli.output import HELP

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(?P<language>[^`\n]*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(?P<text>[^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)[^)]*\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
FOREIGN_FLAGS = {
    "--block", "--dashboard-host", "--follow", "--generate", "--node-ip-address", "--num-cpus",
    "--object-store-memory", "--working-dir",
}  # fmt: skip
"""Of Ray's own commands."""


def shell_lines(text: str) -> Iterator[list[str]]:
    """The words of each command in the blocks of code without a language."""
    for block in FENCE.finditer(text):
        pending = ""
        for line in [] if block["language"] else block["text"].splitlines():
            pending += line.removesuffix("\\") + ("\n" if line.endswith("\\") else "")
            if line.endswith("\\"):
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quotation goes on
                pending += "\n"
                continue
            pending = ""
            if words:
                yield words


def spans(text: str) -> list[str]:
    """What is set as code within a line."""
    return [match["text"] for match in SPAN.finditer(FENCE.sub("", text))]


def flags_of(command: click.Command) -> set[str]:
    return {
        flag for p in command.params for flag in (*p.opts, *p.secondary_opts) if flag[:2] == "--"
    }


def flags_of_train() -> set[str]:
    """Read off its source, as importing it takes longer than all of this."""
    tree = ast.parse((ROOT / "training" / "command.py").read_text())
    texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    own = {text for text in texts if isinstance(text, str) and FLAG.fullmatch(text)}
    return own | {"--store", "--endpoint-url", "--output"}


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names of every command, such as ("runs", "show"), and of every group."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@functools.cache
def all_flags() -> set[str]:
    found = flags_of_train() | {"--help", "--version"}
    for path in commands():
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        found |= flags_of(command)
    return found


def mistake_of(words: list[str]) -> str | None:
    """What is wrong with the arguments of one `steel-batch …`; nothing is run."""
    command: click.Command = cli
    rest = list(words)
    context = click.Context(cli, info_name="steel-batch", **HELP)
    while isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            return f"no such command: steel-batch {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    if command.name == "train":
        unknown = {word for word in rest if word[:2] == "--"} - flags_of_train()
        missing = {"--images", "--store", "--model"} - set(rest)
        return f"train: unknown {unknown}, missing {missing}" if unknown or missing else None
    try:
        with command.make_context(command.name, rest, parent=context) as made:
            inner = made.params
    except click.ClickException as error:
        return f"steel-batch {' '.join(words)}: {error.format_message()}"
    if command.name == "submit":
        return mistake_of([inner["command"], *inner["arguments"]])
    return None


def mistakes(text: str, page: Path) -> list[str]:
    """Everything a page names that is not there."""
    found = []
    for words in shell_lines(text):
        if words[0] == "steel-batch" and "…" not in words:
            found.append(mistake_of(words[1:]))
        if words[0] == "make":
            found.append(missing_target(words[1]))
    known_flags, known_commands = all_flags(), {" ".join(path) for path in commands()}
    for span in spans(text):
        module = re.match(r"python -m ((?:benchmarks|jobs|tests)\.[\w.]+)", span)
        source = ROOT / f"{module[1].replace('.', '/')}.py" if module else None
        if source is not None and not source.exists():
            found.append(f"no such module: `{span}`")
            continue
        flags = set(FLAG.findall(span)) - FOREIGN_FLAGS
        own = set() if source is None else set(FLAG.findall(source.read_text()))
        unknown = flags - own - known_flags
        found += [f"no command has the flag {flag}: `{span}`" for flag in sorted(unknown)]
        words = span.split()
        if words[0] == "steel-batch":
            names = " ".join(w for w in words[1:3] if w.isalpha() or "-" in w[1:]).split()
            if names and not {names[0], " ".join(names)} & known_commands:
                found.append(f"no such command: `{span}`")
        if words[0] == "make":
            found.append(missing_target(words[1]))
        if PATH.fullmatch(span) and (ROOT / span.partition("/")[0]).is_dir() and "/" in span:
            found.append(None if (ROOT / span).exists() else f"no such file: `{span}`")
    for match in LINK.finditer(FENCE.sub("", text)):
        target = match["target"]
        if "://" not in target and not (page.parent / target).exists():
            found.append(f"a link leads nowhere: {target}")
    return [mistake for mistake in found if mistake]


def missing_target(name: str) -> str | None:
    makefile = (ROOT / "Makefile").read_text()
    return None if re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE) else f"make {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert mistakes(page.read_text(encoding="utf-8"), page) == []


@pytest.mark.parametrize("pages", [PAGES[:1], PAGES[1:]], ids=["readme", "docs"])
def test_every_command_is_named(pages: list[Path]) -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages]
    named = [" ".join(words) for text in texts for words in shell_lines(text)]
    named += [span for text in texts for span in spans(text)]
    for path in commands():
        name = " ".join(path)
        forms = (f"steel-batch {name}", f"make {name}")
        assert any(n.startswith(forms) or n == name for n in named), f"{name} is not named"


@pytest.mark.parametrize(
    "text",
    [
        "```\nsteel-batch scores --images a --store b\n```",
        "```\nsteel-batch score --images a\n```",
        "```\nsteel-batch score --images a --store b --dates 2026-11-21\n```",
        "```\nsteel-batch runs shows x --store b\n```",
        "```\nsteel-batch submit --address http://h:1 score --images a --store b --nope\n```",
        "```\nsteel-batch train --images a --store b --model c --epoch 3\n```",
        "```\nsteel-batch query --store b \"\n  SELECT 1\" --nope\n```",
        "```\nmake everything\n```",
        "say `--no-such-flag`",
        "say `steel-batch scores`",
        "run `python -m benchmarks.none`",
        "run `python -m benchmarks.rle --nope`",
        "see `steel_batch/none.py`",
        "see [it](docs/none.md)",
    ],
)  # fmt: skip
def test_what_is_not_there_is_noticed(text: str) -> None:
    assert len(mistakes(text, ROOT / "README.md")) == 1


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 150
