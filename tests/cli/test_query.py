"""`query`: its formats, its files, its help, and the shell."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steel_batch.answers.columns import COLUMNS
from steel_batch.cli.output import naming
from steel_batch.errors import ConfigError, MachineError
from tests.cli.command_line import Command, refused
from tests.made_up_run import DATE

ODD = (
    "SELECT * FROM (VALUES ('a,\"b\"', 1.5::DOUBLE, [1, NULL], map {'k': 'v'}, DATE '2026-11-21'), "
    "('', 'nan'::DOUBLE, NULL, NULL, NULL), (NULL, NULL, [], map {}, NULL)) t(t, x, l, m, d)"
)


def test_json_is_what_json_readers_take(steel_batch: Command, committed: Path) -> None:
    done = steel_batch("query", ODD, "--store", committed, "--output", "json")
    found = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == [
        {"t": 'a,"b"', "x": 1.5, "l": [1, None], "m": {"k": "v"}, "d": "2026-11-21"},
        {"t": "", "x": None, "l": None, "m": None, "d": None},
        {"t": None, "x": None, "l": [], "m": {}, "d": None},
    ]
    counts = "SELECT sum(num_images) AS n, 7::DECIMAL(5, 2) AS d FROM line_summaries"
    done = steel_batch("query", counts, "--store", committed, "--output", "json")
    assert done.json == [{"n": 7, "d": 7.0}]
    none = "SELECT image_key FROM predictions WHERE false"
    assert steel_batch("query", none, "--store", committed, "--output", "json").json == []


@pytest.mark.parametrize("output", ["text", "json", "csv"])
@pytest.mark.parametrize(
    "value",
    [
        "DATE 'infinity'",
        "TIMESTAMP '20000-01-01'",
        "TIMESTAMPTZ '-infinity'",
        "[DATE '0044-03-15 (BC)']",
    ],
)
def test_a_date_that_python_lacks_is_refused_with_its_column(
    steel_batch: Command, committed: Path, output: str, value: str
) -> None:
    flags = ["--store", committed, "--output", output]
    done = steel_batch("query", f"SELECT 1 AS one, {value} AS b", *flags)
    assert "'b' has a date or time outside of the years 1 to 9999" in done.err
    assert done.code == 2
    assert steel_batch("query", f"SELECT CAST({value} AS VARCHAR) AS b", *flags).code == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("INTERVAL '400 months'", "P400M"),
        ("INTERVAL '1 month -2 days 90.5 seconds'", "P1M-2DT90.5S"),
        ("INTERVAL '-1 hour'", "PT-3600S"),
        ("INTERVAL '0 days'", "PT0S"),
        ("TIMESTAMP_NS '2026-01-01 01:02:03.123456789'", "2026-01-01 01:02:03.123456789"),
        ("TIME_NS '01:02:03.123456789'", "01:02:03.123456789"),
    ],
)
def test_intervals_and_nanoseconds_are_written_in_full(
    steel_batch: Command, committed: Path, value: str, expected: str
) -> None:
    sql, flags = f"SELECT {value} AS a, [{value}] AS l", ["--store", committed, "--output"]
    (row,) = steel_batch("query", sql, *flags, "json").json
    assert row["a"] == expected
    if "TIME_NS" not in value:
        assert row["l"] == [expected]
    assert steel_batch("query", sql, *flags, "csv").out.splitlines()[1].startswith(f"{expected},")


def test_csv_tells_an_empty_text_from_null(steel_batch: Command, committed: Path) -> None:
    done = steel_batch("query", ODD, "--store", committed, "--output", "csv")
    lines = list(csv.reader(io.StringIO(done.out)))
    assert lines[:2] == [
        ["t", "x", "l", "m", "d"],
        ['a,"b"', "1.5", "[1, null]", '{"k": "v"}', DATE],
    ]
    assert done.out.splitlines()[2:] == ['"",nan,,,', ",,[],{},"]


def test_csv_and_text_keep_what_json_cannot_represent(
    steel_batch: Command, committed: Path
) -> None:
    sql = "SELECT 12345678901234567.89::decimal(20, 2) d, 1.0 / 0 i, -1.0 / 0 j, 'nan'::double n"
    flags = ["query", sql, "--store", committed, "--output"]
    digits = "12345678901234567.89"
    assert steel_batch(*flags, "csv").out.splitlines()[1] == f"{digits},inf,-inf,nan"
    assert steel_batch(*flags, "text").out.split()[-4:] == [digits, "inf", "-inf", "nan"]
    (row,) = steel_batch(*flags, "json").json
    assert (row["i"], row["j"], row["n"]) == (None, None, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_no_mistake_of_the_user() -> None:
    with pytest.raises(MachineError, match="--out x: No space left"), naming("--out", Path("x")):
        Path("/dev/full").write_bytes(b"x")
    absent = Path("no/x")
    with (
        pytest.raises(ConfigError, match="there is no folder no") as wrong,
        naming("--out", absent),
    ):
        absent.write_bytes(b"x")
    assert not isinstance(wrong.value, MachineError)


def test_an_answer_is_written_to_a_new_file(
    steel_batch: Command, committed: Path, tmp_path: Path
) -> None:
    sql, out = "SELECT image_key, defects FROM predictions ORDER BY 1", tmp_path / "found.parquet"
    flags = ["--store", committed, "--output", "parquet", "--out", out]
    assert steel_batch("query", sql, *flags).out == ""
    assert pq.read_table(out).num_rows == 7
    assert "exists" in refused(steel_batch("query", sql, *flags))
    assert pq.read_table(out).num_rows == 7


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["SELECT 1 AS a, 2 AS a", "--output", "parquet"], "several columns named 'a'"),
        (["SELECT 1 AS a, 2 AS a", "--output", "json"], "several columns named 'a'"),
        (["SELECT 1; SELECT 2", "--output", "csv"], "found 2"),
        (["SELECT error('no') FROM predictions", "--output", "csv"], "cannot be answered"),
        (["CREATE TABLE t (a INT)", "--output", "csv"], "no rows"),
        (["DROP VIEW predictions", "--output", "csv"], "the view predictions is of the store"),
        (
            ["SELECT INTERVAL 1 DAY AS took", "--output", "parquet"],
            "column 'took' is month_day_nano_interval, which Parquet cannot hold: cast it",
        ),
    ],
)
def test_what_cannot_be_answered_leaves_no_file(
    steel_batch: Command, committed: Path, tmp_path: Path, flags: list[str], expected: str
) -> None:
    done = steel_batch("query", *flags, "--store", committed, "--out", tmp_path / "out")
    assert expected in refused(done) + done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["SELECT 1", "--file", "x.sql"], "not both"),
        (["SELECT 1", "--out", "x"], "--out needs --output"),
        (["--file", "none.sql"], "--file none.sql: No such file"),
        (["SELECT 1", "--pixel-mm", "wide"], "pixel size 'wide'"),
        (["SELECT 1", "--as-of", "never"], "'never' is neither"),
        (["SELECT 1", "--output", "csv", "--out", "no/where"], "there is no folder no"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    steel_batch: Command, committed: Path, flags: list[str], expected: str
) -> None:
    assert expected in refused(steel_batch("query", *flags, "--store", committed))


def test_sql_comes_from_a_file_or_from_standard_input(
    steel_batch: Command, committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several statements each answer is printed."""
    sql = "CREATE VIEW big AS FROM defects;\n-- first;\nSELECT 'one;' AS a;\nSELECT 2 AS b"
    path = tmp_path / "question.sql"
    path.write_text(f"\ufeff{sql}", encoding="utf-8")
    expected = ["a", "one;", "b", "2"]
    assert steel_batch("query", "--file", path, "--store", committed).out.split() == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(sql))
    assert steel_batch("query", "--file", "-", "--store", committed).out.split() == expected
    path.write_bytes(b"SELECT '\xff'")
    assert "not text in UTF-8" in refused(
        steel_batch("query", "--file", path, "--store", committed)
    )


def test_sql_is_utf_8_whatever_the_locale_is(steel_batch: Command, committed: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", "query", "--store", committed, "SELECT 'ä' AS x"],
        env=plain, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"x", rb"\xe4"], b"")
    assert "is not UTF-8" in refused(steel_batch("query", "--store", committed, "SELECT '\udcff'"))


def test_as_of_and_pixel_sizes_are_taken(steel_batch: Command, committed: Path) -> None:
    sql = "SELECT count(*) AS n, max(width_mm) AS w FROM predictions"
    flags = ["--store", committed, "--output", "json", "--pixel-mm", "0.5"]
    assert steel_batch("query", sql, *flags).json == [{"n": 7, "w": 80.0}]
    assert steel_batch("query", sql, *flags, "--as-of", "0").json == [{"n": 0, "w": None}]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("123456.789", "123,457"), ("0.123456", "0.1235"), ("11.0", "11"), ("99.996", "100"),
        ("1e-7", "1e-07"), ("-1234.5", "-1,234"), ("2.5", "2.5"), ("1e20", "1e+20"), ("0", "0"),
    ],
)  # fmt: skip
def test_numbers_are_shown_with_all_digits_before_the_point(
    steel_batch: Command, committed: Path, value: str, shown: str
) -> None:
    done = steel_batch("query", f"SELECT {value}::DOUBLE AS x", "--store", committed)
    assert done.out.split() == ["x", shown]


def test_help_lists_every_view_and_column(steel_batch: Command) -> None:
    text = steel_batch("query", "--help").out
    for view, columns in COLUMNS.items():
        section = text.split(f"\n{view}, ")[1].split("\n\n")[0]
        assert {line.split()[0] for line in section.splitlines()[1:] if line[:2] == "  "} >= set(
            columns
        )


@contextmanager
def shell(store: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The shell on a terminal of its own."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "steel_batch.cli", "query", "--store", str(store)]
    with subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, start_new_session=True
    ) as process:
        os.close(its)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


def read_until(terminal: int, *texts: str) -> str:
    """What the terminal shows up to some texts, one after the other."""
    found, at, give_up = "", 0, time.monotonic() + 120
    for text in texts:
        while text not in found[at:] and time.monotonic() < give_up:
            found += os.read(terminal, 1 << 16).decode()
        assert text in found[at:], found
        at = found.index(text, at) + len(text)
    return found


def test_the_shell_answers_until_it_is_left(committed: Path) -> None:
    with shell(committed) as (process, terminal):
        read_until(terminal, "steel> ")
        for typed, *expected in (
            (".columns defects\n", "class_name", "steel> "),
            ("SELECT 'a;b' AS t,\n", "... "),
            ("  count(*) AS n FROM predictions;\n", "a;b  7", "steel> "),
            ("SELECT nothing;\n", "Error: ", "steel> "),
            ("FROM quarantine SELECT count(*) + 40;\n", "41", "steel> "),
        ):
            os.write(terminal, typed.encode())
            read_until(terminal, *expected)
        os.write(terminal, b".quit\n")
        assert process.wait(timeout=60) == 0


def test_the_end_of_the_input_ends_the_shell(committed: Path) -> None:
    with shell(committed) as (process, terminal):
        read_until(terminal, "steel> ")
        time.sleep(1)  # until the line is edited, and no longer the terminal's own
        os.write(terminal, b"\x04")
        assert process.wait(timeout=60) == 0


def test_a_signal_ends_the_shell_while_it_waits(committed: Path) -> None:
    with shell(committed) as (process, terminal):
        read_until(terminal, "steel> ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
