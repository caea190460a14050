"""Names, notes and messages steer no terminal and forge no line of a log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from steel_batch.cli import output
from steel_batch.cli.call import refuse
from steel_batch.cli.query import show_table
from steel_batch.cli.submit import _shown
from steel_batch.lake import Lake
from tests.cli.command_line import Command
from tests.conftest import DATE

EVIL = "a\x1b[2J\x1b]0;title\x07\u202egpj.\u2066b\r\nError: forged"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\u202egpj.\u2066b\r"


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capfd.readouterr()
    text = out + err
    assert not [c for c in text if c != "\n" and not c.isprintable()]
    return text.splitlines()


def test_a_line_a_table_and_a_sentence_show_them_as_escapes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    output.print_line(EVIL)
    assert lines(capfd) == [f"{SHOWN}\\nError: forged"]
    show_table(pa.table({f"name{EVIL[:8]}": [EVIL, "b"]}))
    head, first, second = lines(capfd)
    assert head.rstrip() == f"name{SHOWN[:14]}"
    assert first == f"{SHOWN}\\nError: forged"
    assert second.rstrip() == "b"
    output.say(EVIL)
    assert lines(capfd) == [SHOWN, "Error: forged"]


def test_what_follows_the_first_line_of_an_error_is_indented(
    capfd: pytest.CaptureFixture[str],
) -> None:
    refuse(EVIL, 1)
    assert lines(capfd) == [f"Error: {SHOWN}", "  Error: forged"]


@pytest.mark.parametrize("verbose", [False, True])
def test_a_log_record_is_one_line_whatever_it_names(
    capfd: pytest.CaptureFixture[str], verbose: bool
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(output._Lines(verbose))
    record = logging.LogRecord("n", logging.WARNING, "p", 1, "%s is left out", (EVIL,), None)
    handler.emit(record)
    (line,) = lines(capfd)
    assert line.endswith(f"{SHOWN}\\nError: forged is left out")
    assert line.startswith("Warning: a\\x1b") is not verbose


def test_what_a_job_prints_keeps_its_tabs_and_lines_alone() -> None:
    assert _shown("a\tb\n\x1b[2Jc\u202e") == "a\tb\n\\x1b[2Jc\\u202e"


def test_names_in_a_lake_reach_no_terminal_as_they_are(
    steel_batch: Command, tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for name in (f"line=1/date={DATE}/{EVIL}.txt", f"{EVIL}.jpg/x.txt", f"line={EVIL}/x.jpg"):
        lake.write(name.replace("\r\nError: forged", ""), b"x")
    pattern = "line={line}/date={date}/{image_id}.jpg"
    for flags in (["--key-pattern", pattern], []):
        done = steel_batch(
            "plan", "--images", lake.url, "--store", tmp_path / "s", "--date", DATE, *flags
        )
        assert not [c for c in done.out + done.err if c != "\n" and not c.isprintable()]
        assert "\\x1b" in done.err
