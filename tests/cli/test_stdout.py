"""What commands do about a stdout that cannot take their text."""

from __future__ import annotations

import json
import os
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
