"""What the documents say reads the tables reads files of two builds side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.golden_store import GOLDEN_ENGINE, copy_golden_store
from tests.made_up_run import commit_run, image_keys

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "read-the-tables.md"
BLOCK = re.compile(r"^`{3}python\n(?P<code>.*?)^`{3}", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("engine", ["a-0123456789ab", "z-0123456789ab"])
def test_documented_code_reads_files_of_two_builds(
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """DuckDB and Polars take their columns from the first file: of the new build, or of the old."""
    store = copy_golden_store(tmp_path).store
    commit_run(store, image_keys(6), engine=engine)
    monkeypatch.chdir(tmp_path)
    blocks = [match["code"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    reading = [code for code in blocks if "store/predictions" in code]
    assert len(reading) == 4
    for code in reading:
        exec(code.replace("demo-b68b94c6c92f", GOLDEN_ENGINE), {})  # noqa: S102 - our own page
        assert capsys.readouterr().out.strip()
