"""What needs no library answers without one, and TAB offers what the store has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from steel_batch import layout
from steel_batch.cli.group import COMMANDS, cli
from steel_batch.cli.output import HELP
from tests.made_up_run import DATE, ENGINE

RUN_ID = layout.run_id(ENGINE, DATE, 1)

HEAVY = {"ray", "pyarrow", "duckdb", "deltalake", "onnxruntime", "cv2", "numpy", "s3fs", "torch"}
_IMPORTED = """
import json, sys
sys.argv = json.loads(sys.argv[1])
from steel_batch.cli import main
try:
    main()
finally:
    print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def complete(*words: str) -> list[str]:
    *before, incomplete = words
    found = ShellComplete(cli, {}, "steel-batch", "_STEEL_BATCH_COMPLETE")
    return [item.value for item in found.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    "words",
    [["--version"], ["--help"], ["runs", "list"], ["runs", "show", RUN_ID], ["score", "--help"]],
    ids=" ".join,
)
def test_what_only_looks_imports_no_library_for_images_tables_or_clusters(
    words: list[str], committed: Path
) -> None:
    store = ["--store", str(committed)] if words[0] == "runs" else []
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, json.dumps(["steel-batch", *words, *store])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout
    assert HEAVY & set(json.loads(done.stderr.splitlines()[-1])) == set()


def test_each_command_of_the_table_can_be_imported_and_has_its_name() -> None:
    assert {name: cli.commands[name].name for name in COMMANDS} == {name: name for name in COMMANDS}


def test_the_list_of_commands_is_the_table() -> None:
    with click.Context(cli, terminal_width=200, **HELP) as context:
        text = cli.get_help(context)
    for name, (_, line) in COMMANDS.items():
        assert any(row.split() == [name, *line.split()] for row in text.splitlines()), name


def test_commands_and_options_are_completed() -> None:
    assert complete("sc") == ["score"]
    assert complete("runs", "l") == ["list"]
    assert "--key-pattern" in complete("score", "--key")


def test_runs_dates_and_engines_are_completed_from_the_store(committed: Path) -> None:
    store = ["--store", str(committed)]
    date = RUN_ID[:10]
    assert complete("runs", "show", *store, date[:4]) == [RUN_ID]
    assert complete("quarantine", "list", *store, "--date", "") == [date]
    assert complete("score", *store, "--engine", "d") == ["demo"]
    assert complete("score", *store, "--date", "1999") == []


def test_where_there_is_no_store_nothing_is_offered_and_nothing_fails(tmp_path: Path) -> None:
    assert complete("runs", "show", "") == []
    assert complete("runs", "show", "--store", str(tmp_path / "none"), "") == []
    assert complete("score", "--store", "ftp://x", "--engine", "") == []
