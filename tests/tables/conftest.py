"""What the tests of tables share."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake


@pytest.fixture
def folder(tmp_path: Path) -> Lake:
    """For what does not depend on the kind of store."""
    return Lake(str(tmp_path / "folder"))
