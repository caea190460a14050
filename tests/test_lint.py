"""What is checked before a commit is what `make lint` checks; lists name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
TOOL = re.compile(r"(?:\$\(BIN\)|\.venv/bin)/(\w+)((?: (?!-)\w+)?)(.*)")


def tools(lines: list[str]) -> set[str]:
    """The tools that some lines call, each with its subcommand and whether it only checks."""
    found = (TOOL.match(line) for line in lines)
    return {
        f"{m[1]}{m[2]}{' --check' if '--check' in m[3] else ''}" for m in found if m is not None
    }


def test_hooks_run_what_make_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    linted = tools([line.strip() for line in recipe[1].splitlines()])
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert {hook["language"] for hook in hooks} == {"system"}, "versions are those of .venv"
    assert tools([hook["entry"] for hook in hooks]) == linted
    assert linted == {"ruff check", "ruff format --check", "codespell", "mypy", "uv lock --check"}


def test_the_files_that_begin_first_are_there() -> None:
    assert [file for file in LONGEST if not (ROOT / "tests" / file).is_file()] == []


def test_the_lock_names_no_host_but_the_public_index() -> None:
    text = (ROOT / "uv.lock").read_text()
    hosts = set(re.findall(r"https?://([^/\"]+)", text))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "file:" not in text
    assert not re.search(r'(?:path|directory|url) = "(?!https://files\.pythonhosted\.org/)', text)
