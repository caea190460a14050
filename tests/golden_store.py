"""A copy of the golden store, its engine and its lake: see tests/golden/README.md."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steel_batch.lake import Lake
from tests.golden.make_store import draw_lake

GOLDEN: Final = Path(__file__).parent / "golden" / "store_2026_11_28"
MADE_IN: Final = "/srv/steel"
GOLDEN_ENGINE: Final = "tiny-45e890118068"


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenPlaces:
    """Where a copy lies."""

    store: Lake
    engine: Path
    images: Path


def copy_golden_store(folder: Path) -> GoldenPlaces:
    """Copy the golden store into a folder and generate its lake next to it.

    Records name the folders that they were written in: these move along.
    """
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    for record in folder.glob("store/runs/*/run.json"):
        record.write_text(record.read_text().replace(MADE_IN, str(folder)))
    draw_lake(folder / "lake")
    return GoldenPlaces(
        store=Lake(str(folder / "store")), engine=folder / "engine", images=folder / "lake"
    )
