"""DuckDB writes nothing where results are printed, and keeps within its bounds."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from steel_batch.database import GROUPS_PER_ENGINE, load_stream, renewed, scratch_database
from tests.full_disk import error_of_a_full_disk

ASK = "print(connect().execute(\"SELECT current_setting('enable_progress_bar')\").fetchone()[0])"


def test_no_progress_bar_is_shown_where_duckdb_would_show_one() -> None:
    shown = [
        subprocess.run([sys.executable, "-c", f"{where}; {ASK}"], capture_output=True, text=True)
        for where in ("from duckdb import connect", "from steel_batch.database import connect")
    ]
    assert [done.stdout.strip() for done in shown] == ["True", "False"]


def test_a_scratch_database_is_bounded_in_memory_spills_to_disk_and_is_deleted() -> None:
    with scratch_database() as con:
        ((limit, folder),) = con.sql(
            "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchall()
        assert limit == "244.1 MiB"  # as DuckDB says 256 MB
        assert Path(folder).is_dir()
        con.execute("CREATE TABLE t AS SELECT random() AS x FROM range(50000000)")
        assert any(Path(folder).iterdir())
    assert not Path(folder).exists()


def test_scratch_databases_see_nothing_of_each_other_and_share_one_folder() -> None:
    with scratch_database() as one, scratch_database() as two:
        one.execute("CREATE TABLE t AS SELECT 1 AS x")
        two.execute("CREATE TABLE t AS SELECT 2 AS x")
        found = [con.sql("SELECT x FROM t").fetchall() for con in (one, two)]
        folders = {
            con.sql("SELECT current_setting('temp_directory')").fetchall()[0] for con in (one, two)
        }
    assert (found, len(folders)) == ([[(1,)], [(2,)]], 1)


def test_many_groups_of_rows_are_joined_by_engines_that_are_closed_after_some_of_them() -> None:
    folders: list[Path] = []
    with scratch_database() as con, contextlib.closing(renewed(con)) as databases:
        for database in itertools.islice(databases, 4 * GROUPS_PER_ENGINE):
            [(folder,)] = database.sql("SELECT current_setting('temp_directory')").fetchall()
            folders.append(Path(folder))
            # That of the caller, and one other.
            assert {path for path in folders if path.exists()} == {folders[0], folders[-1]}
        limits = database.sql("SELECT current_setting('memory_limit')").fetchall()
    assert [len([*same]) for _, same in itertools.groupby(folders)] == [GROUPS_PER_ENGINE] * 4
    assert limits == [("244.1 MiB",)]
    assert not any(path.exists() for path in folders)


_FILL = """
from steel_batch.database import scratch_database

with scratch_database() as con:
    con.execute("CREATE TABLE t AS SELECT random() AS x FROM range(50000000)")
"""


def test_a_full_disk_of_temporary_files_is_named_with_what_to_do(tmp_path: Path) -> None:
    said = error_of_a_full_disk(_FILL, tmp_path)
    assert said.startswith(f"the folder of temporary files, {tmp_path}: File too large.")


def test_an_interruption_while_a_table_is_filled_is_raised_as_it_is() -> None:
    def interrupted() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"i": [1]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), scratch_database() as con:
        load_stream(con, "t", pa.schema([("i", pa.int64())]), interrupted())


_INTERRUPT = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # its parent may ignore it
from steel_batch.database import scratch_database

try:
    with scratch_database() as con:
        con.execute("CREATE TABLE t AS SELECT random() AS x, range AS i FROM range(4000000)")
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        con.sql("SELECT * FROM t ORDER BY x").to_arrow_reader(1024)
        time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interruption_while_duckdb_sorts_is_one() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERRUPT], capture_output=True, text=True)
    assert done.stdout == "interrupted\n", done.stderr
