"""The site builds, and no link of it leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_click", reason="the site needs steel-batch[docs]")
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html"]
    done = subprocess.run(
        [*build, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text()
    assert "--key-pattern" in commands
    assert "*.tar#{image_id}.jpg" in commands
    tables = (tmp_path / "site" / "reference" / "tables.html").read_text()
    for column in ("area_p95_px", "error_code", "scored_at"):
        assert column in tables


def test_each_claim_of_who_may_write_where_names_a_test() -> None:
    page = (ROOT / "docs/explanation/who-may-write-where.md").read_text()
    claims = [line for line in page.splitlines() if line.startswith("| ") and "`test_" in line]
    named = re.findall(r"`(test_\w+)` \|$", page, re.MULTILINE)
    files = (file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    there = {name for text in files for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert len(named) == len(claims) > 25
    assert set(named) <= there
