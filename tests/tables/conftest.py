"""What the tests of tables share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steel_batch.lake import Lake
from steel_batch.tables.table_log import ensure_tables
from tests.tables.sound_store import fill


@pytest.fixture
def folder(tmp_path: Path) -> Lake:
    """For what does not depend on the kind of store."""
    return Lake(str(tmp_path / "folder"))


@pytest.fixture
def empty_store(tmp_path: Path) -> Lake:
    """Tables without rows, in a folder."""
    lake = Lake(str(tmp_path / "store"))
    ensure_tables(lake)
    return lake


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that is never touched."""
    path = tmp_path_factory.mktemp("sound") / "store"
    fill(Lake(str(path)))
    return path


@pytest.fixture
def sound_store(filled: Path, tmp_path: Path) -> Lake:
    """A copy of it, to plant something in."""
    shutil.copytree(filled, tmp_path / "store")
    return Lake(str(tmp_path / "store"))
