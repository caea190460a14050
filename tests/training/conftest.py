from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.lake import Lake
from tests.conftest import DATE
from tests.training.bands import write_bands
from tests.training.small_job import RECIPE, job
from training.job import JobResult, run_job


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_bands(Lake(str(folder)), num_images=40, prefix=f"line=1/date={DATE}/")
    return folder


@pytest.fixture(scope="session")
def made(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobResult, Lake]:
    """An undisturbed job and its store."""
    store = tmp_path_factory.mktemp("store")
    return run_job(job(images, store), RECIPE), Lake(str(store))
