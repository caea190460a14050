"""The site builds, and no link of it leads nowhere."""

from __future__ import annotations

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
