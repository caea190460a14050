"""DuckDB writes nothing where results are printed."""

from __future__ import annotations

import subprocess
import sys

ASK = "print(connect().execute(\"SELECT current_setting('enable_progress_bar')\").fetchone()[0])"


def test_no_progress_bar_is_shown_where_duckdb_would_show_one() -> None:
    shown = [
        subprocess.run([sys.executable, "-c", f"{where}; {ASK}"], capture_output=True, text=True)
        for where in ("from duckdb import connect", "from steel_batch.database import connect")
    ]
    assert [done.stdout.strip() for done in shown] == ["True", "False"]
