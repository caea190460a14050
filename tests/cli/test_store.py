"""Commands that look into a store: `query`, `runs`, `quarantine`, `verify` and `gc`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from steel_batch import layout
from steel_batch.errors import IMAGE_CODES
from steel_batch.lake import Lake
from steel_batch.lake.lock import Lease
from steel_batch.lake.series import entry_key
from steel_batch.runs.events import Events
from tests.cli.command_line import Command, keys, refused
from tests.made_up_run import DATE, ENGINE, begin, commit_run, image_keys, keys_of

RUN = "2020-01-01-made-0123456789ab-0001"
"""Of no store."""


def test_queries_answer_in_json_and_text(steel_batch: Command, committed: Path) -> None:
    sql = "SELECT line, count(*) AS n FROM predictions GROUP BY line ORDER BY line"
    done = steel_batch("query", sql, "--store", committed, "--output", "json")
    assert done.json == [{"line": "1", "n": 3}, {"line": "2", "n": 4}]
    text = steel_batch("query", sql, "--store", committed)
    assert text.out.split() == ["line", "n", "1", "3", "2", "4"]
    tagged = steel_batch("query", "SELECT '[red]x[/]' AS tag", "--store", committed)
    assert tagged.out.split() == ["tag", "[red]x[/]"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT nonsense FROM predictions", "nonsense"),
        ("SELEC 1", "SELEC"),
        ("", "no rows"),
        ("SELECT * FROM elsewhere", "elsewhere"),
    ],
)
def test_sql_that_cannot_be_answered_is_explained(
    steel_batch: Command, committed: Path, sql: str, expected: str
) -> None:
    done = steel_batch("query", sql, "--store", committed)
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.err.startswith("Error: the query cannot be answered: ")
    assert expected in done.err


def test_a_store_that_was_never_scored_into_says_so(steel_batch: Command, tmp_path: Path) -> None:
    mistyped = steel_batch("query", "SELECT 1", "--store", tmp_path / "nothing")
    assert (mistyped.code, "there is no store at" in refused(mistyped)) == (2, True)
    Lake(str(tmp_path)).write("registry/a/card.json", b"{}")
    empty = steel_batch("query", "SELECT 1", "--store", tmp_path)
    assert (empty.code, "nothing has been scored into" in refused(empty)) == (1, True)


def test_each_run_without_a_result_says_why(steel_batch: Command, tmp_path: Path) -> None:
    store = Lake(str(tmp_path))
    messages = {
        "failed": {"error": "LakeError", "message": "the disk is full. Make room."},
        "interrupted": {},
        "attempt": {"host": "h"},
    }
    for day, (event, fields) in enumerate(messages.items(), 1):
        record = begin(store, image_keys(4), date=f"2026-11-0{day}")
        events = Events(store, record.run_id)
        events.add("attempt", host="h", config={})
        events.add(event, **fields, lake={"requests": 3, "retries": {"500": 1}})
        events.flush()
    later = begin(store, image_keys(4), date="2026-11-01")
    with Lease(store, layout.lock_series(ENGINE, "2026-11-01"), what="the date"):
        found = steel_batch("runs", "list", "--store", store.url, "--output", "json").json
        text = steel_batch("runs", "list", "--store", store.url).out
    assert [run["state"] for run in found] == ["abandoned", "running", "interrupted", "killed"]
    assert found[0]["reason"] == "failed: the disk is full. Make room."
    assert f"process {os.getpid()}" in found[1]["reason"]
    assert "abandoned: failed: the disk is full  " in text
    assert f"{later.run_id}  running: process " in text
    assert "interrupted: by Ctrl-C or SIGTERM at " in text
    assert "killed: last heard of at " in text
    shown = steel_batch("runs", "show", found[0]["run_id"], "--store", store.url).out
    assert ": abandoned: failed: the disk is full. Make room.\n" in shown
    assert "lake=(requests=3 retries=(500=1))" in shown
    assert "{" not in shown
    assert "  rescore_changed: no\n" in shown


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("what", ["run.json", "result.json", "events.jsonl", "lock"])
def test_a_list_of_runs_shows_the_others_and_names_a_damaged_file(
    steel_batch: Command, tmp_path: Path, what: str, output: str
) -> None:
    store = Lake(str(tmp_path))
    ids = [begin(store, image_keys(4), date=f"2026-11-0{day}").run_id for day in range(1, 6)]
    key = layout.run_file(ids[2], what)
    if what == "lock":
        key = entry_key(layout.lock_series(ENGINE, "2026-11-03"), 1)
    store.write(key, b"\n[")
    done = steel_batch("runs", "list", "--store", store.url, "--output", output)
    assert done.code == 1
    assert store.uri(key) in done.err
    if output == "json":
        states = {run["run_id"]: run["state"] for run in done.json}
        assert list(states) == ids
        assert [run for run, state in states.items() if state == "unreadable"] == [ids[2]]
    else:
        assert f"{ids[2]}  unreadable: {store.uri(key)}"[:60] in done.out
        assert [line.split()[0] for line in done.out.strip().splitlines()[1:]] == ids


def test_runs_are_listed_and_shown(steel_batch: Command, committed: Path) -> None:
    (listed,) = steel_batch("runs", "list", "--store", committed, "--output", "json").json
    assert keys(listed) == {"run_id", "state", "reason", "result"}
    assert listed["state"] == "committed"
    shown = steel_batch("runs", "show", listed["run_id"], "--store", committed, "--output", "json")
    assert keys(shown.json) == {
        "run_id", "state", "reason", "record", "result", "alerts", "events"
    }  # fmt: skip
    assert shown.json["alerts"] is None, "no condition was given"
    assert [event["event"] for event in shown.json["events"]][:1] == ["landed"]
    text = steel_batch("runs", "show", listed["run_id"], "--store", committed).out
    assert f"{listed['run_id']}: committed" in text
    assert "landed  table=predictions" in text
    none = steel_batch("runs", "list", "--store", committed, "--date", "1999")
    assert (none.code, none.out) == (0, f"no runs of 1999 in {committed}\n")


@pytest.mark.parametrize("text", ["[]", "{", '{"conditions": [], "alerts": [1]}'])
def test_damaged_alerts_of_a_run_are_named(steel_batch: Command, tmp_path: Path, text: str) -> None:
    store = Lake(str(tmp_path))
    run_id = commit_run(store, image_keys(2)).run_id
    assert run_id is not None
    store.write(layout.run_file(run_id, layout.RUN_ALERTS), text.encode())
    done = steel_batch("runs", "show", run_id, "--store", store.url)
    assert "alerts.json is damaged: " in refused(done)


@pytest.mark.parametrize("command", [["runs", "list"], ["runs", "show", RUN], ["gc"]])
def test_a_store_that_is_not_there_is_not_an_empty_one(
    steel_batch: Command, tmp_path: Path, command: list[str]
) -> None:
    Lake(str(tmp_path)).write("line=1/im1.png", b"no store")
    for place in (tmp_path, tmp_path / "nowhere"):
        text = refused(steel_batch(*command, "--store", place))
        assert text == (
            f"Error: there is no store at {place}: found no runs, tables or registry. Check "
            "--store."
        )
    Lake(str(tmp_path)).write("registry/a/card.json", b"{}")
    found = steel_batch("runs", "list", "--store", tmp_path)
    assert (found.code, found.out) == (0, f"no runs in {tmp_path}\n")


def test_a_run_that_is_not_there_is_named(steel_batch: Command, committed: Path) -> None:
    assert "'yesterday' is not a run id" in refused(
        steel_batch("runs", "show", "yesterday", "--store", committed)
    )
    assert f"no run {RUN}" in refused(steel_batch("runs", "show", RUN, "--store", committed))


def test_the_quarantine_is_listed(steel_batch: Command, committed: Path) -> None:
    (entry,) = steel_batch("quarantine", "list", "--store", committed, "--output", "json").json
    assert keys(entry) == {"date", "engine", "image_key", "error_code", "message", "bytes"}
    assert entry["error_code"] == "empty"
    only = ["--code", "truncated", "--output", "json"]
    assert steel_batch("quarantine", "list", "--store", committed, *only).json == []
    for code in ("nonsense", "' OR 1=1 --"):
        text = refused(steel_batch("quarantine", "list", "--store", committed, "--code", code))
        assert f"unknown --code {code!r}: expected one of: empty, not_an_image, " in text


def test_a_date_that_no_run_scored_is_told_from_one_without_bad_images(
    steel_batch: Command, committed: Path
) -> None:
    def said(*flags: str) -> tuple[int, bool]:
        done = steel_batch("quarantine", "list", "--store", committed, *flags)
        return done.code, "no row of 2026-11-2" in done.err

    assert said("--date", "2026-11-20") == (0, True)
    assert said("--date", DATE) == (0, False)
    assert said("--date", DATE, "--code", "truncated") == (0, False)


def test_the_codes_of_the_quarantine_are_those_that_the_source_and_the_reference_have() -> None:
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for path in (root / "steel_batch").rglob("*.py"))
    said = set(re.findall(r'\bcode="(\w+)"|default_code = "(\w+)"', source))
    bad_decoders = {"bad_mask"}
    of_the_lake = {"missing", "changed", "unsafe_link"}
    assert {a or b for a, b in said} | of_the_lake == {*IMAGE_CODES} | bad_decoders
    page = (root / "docs" / "reference" / "quarantine-codes.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(IMAGE_CODES)


def test_verify_refuses_what_would_be_well_for_want_of_anything_to_check(
    steel_batch: Command, committed: Path, tmp_path: Path
) -> None:
    text = refused(steel_batch("verify", "--store", tmp_path / "nothing"))
    assert text == (
        f"Error: there is no store at {tmp_path}/nothing: found no runs, tables or registry. "
        "Check --store."
    )
    for flag, value, expected in (
        ("--engine", "demo", f"expected <model>-<12 hex>, for example {ENGINE}."),
        ("--date", "2026-11-12", "nothing is committed for the date 2026-11-12 in "),
        ("--date", "2026-13-45", "there is no date 2026-13-45; expected YYYY-MM-DD"),
    ):
        assert expected in refused(steel_batch("verify", "--store", committed, flag, value))


def test_verify_exits_1_where_something_is_wrong_and_gc_shows_before_it_deletes(
    steel_batch: Command, tmp_path: Path
) -> None:
    store = Lake(str(tmp_path / "store"))
    result = commit_run(store, image_keys(4))
    place = ["--store", store.url]
    sound = steel_batch("verify", *place, "--output", "json")
    assert (sound.code, sound.json) == (0, [])
    assert (
        steel_batch("verify", *place).err == "no problems found; checked: 1 run, 2 files, 12 rows\n"
    )
    orphan = layout.table_file("predictions", result.engine, result.date, str(result.run_id), 7)
    store.write(orphan, b"12345")
    wrong = steel_batch("verify", *place, "--output", "json")
    assert wrong.code == 1
    assert [keys(problem) for problem in wrong.json] == [{"kind", "key", "message"}]
    text = steel_batch("verify", *place)
    assert f"foreign: {orphan}" in text.out
    assert text.err == f"1 problem in {store.url}; checked: 1 run, 2 files, 12 rows\n"
    before = keys_of(store)
    dry = steel_batch("gc", *place, "--dry-run", "--output", "json")
    assert [keys(item) for item in dry.json] == [{"key", "bytes", "reason", "engine", "date"}]
    assert steel_batch("gc", *place, "--dry-run").err == "would be deleted: 1 object, 5 bytes\n"
    assert keys_of(store) == before
    assert steel_batch("gc", *place, "--output", "json").json == dry.json
    assert store.stat(orphan) is None
    assert steel_batch("verify", *place).code == 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY predictions TO '{folder}/copied.csv'",
        "EXPORT DATABASE '{folder}/exported'",
        "ATTACH '{folder}/attached.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true; SELECT * FROM read_text('{secret}')",
        "SET lock_configuration = false; SELECT 1",
        "SET allowed_paths = ['{secret}']; SELECT * FROM read_text('{secret}')",
        "PRAGMA enable_profiling='json'; PRAGMA profiling_output='{folder}/profile'; SELECT 1",
        "SELECT * FROM opened",
        "SELECT * FROM con",
    ],
)
def test_sql_reaches_the_tables_alone(
    steel_batch: Command, committed: Path, tmp_path: Path, sql: str
) -> None:
    """Nor the variables of this program, which DuckDB would read as tables."""
    folder = tmp_path / "folder"
    folder.mkdir()
    secret = folder / "secret.csv"
    secret.write_text("a,b\n1,never-read\n")
    done = steel_batch("query", sql.format(secret=secret, folder=folder), "--store", committed)
    assert done.code == 2
    assert "never-read" not in done.out + done.err
    assert [path.name for path in folder.iterdir()] == ["secret.csv"]


def test_unsafe_sql_reads_and_writes_files(
    steel_batch: Command, committed: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines.csv").write_text("line,hall\n1,A\n2,B\n")
    sql = f"SELECT hall FROM '{tmp_path}/lines.csv' ORDER BY hall"
    assert steel_batch("query", sql, "--store", committed).code == 2
    done = steel_batch("query", sql, "--store", committed, "--unsafe")
    assert done.out.split() == ["hall", "A", "B"]


def test_query_says_in_its_help_what_sql_reaches(steel_batch: Command) -> None:
    text = " ".join(steel_batch("query", "-h").out.split())
    assert "SQL reads only the views below" in text
    assert "--unsafe Let SQL read and write everything that this user can" in text
