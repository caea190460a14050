"""What commands do about a stdout that cannot take their text."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
QUERY = ("query", "SELECT chr(252) || chr(215) AS a")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "steel_batch.cli", *map(str, words)]


@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE])
def test_what_an_encoding_lacks_is_printed_as_an_escape(
    encoding: dict[str, str], committed: Path
) -> None:
    def printed(*flags: str) -> str:
        done = subprocess.run(
            command(*QUERY, "--store", committed, *flags),
            capture_output=True, text=True, env=os.environ | encoding,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert printed().split() == ["a", "\\xfc\\xd7"]
    assert json.loads(printed("--output", "json")) == [{"a": "ü×"}]


COMMANDS = [
    ("query", "SELECT 1 AS a", "--output", "csv"),
    ("query", "SELECT i FROM range(20000) t(i)"),
    ("runs", "list"),
    ("-h",),
]


def in_shell(redirection: str, words: tuple[str, ...], store: Path) -> tuple[int, str]:
    """The exit code and stderr of a command whose stdout a shell redirects."""
    flags = () if words == ("-h",) else ("--store", store)
    shell = f"set -o pipefail; {shlex.join(command(*words, *flags))} {redirection}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_stdout_that_cannot_be_written_is_one_line(
    words: tuple[str, ...], committed: Path
) -> None:
    full = "Error: stdout cannot be written: No space left on device.\n"
    assert in_shell(">/dev/full", words, committed) == (1, full)
    closed = "Error: stdout cannot be written: Bad file descriptor.\n"
    assert in_shell(">&-", words, committed) == (1, closed)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_ends_early_ends_the_command_quietly(
    words: tuple[str, ...], committed: Path
) -> None:
    assert in_shell("| (exec <&-)", words, committed) == (1, "")


def test_a_closed_stdout_is_no_error_for_a_command_that_prints_nothing_there(
    committed: Path, tmp_path: Path
) -> None:
    words = ("query", "SELECT 1 AS a", "--output", "csv", "--out", str(tmp_path / "a.csv"))
    assert in_shell(">&-", words, committed) == (0, "")
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"


def test_what_was_printed_before_an_error_is_kept(committed: Path) -> None:
    done = subprocess.run(
        command("query", "SELECT 1 AS one; SELECT error('no')", "--store", committed),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.split() == ["one", "1"]
