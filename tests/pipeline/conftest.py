"""What the tests of runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    """A folder without images."""
    return Lake(str(tmp_path / "images"))


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    """A folder without tables."""
    return Lake(str(tmp_path / "store"))
