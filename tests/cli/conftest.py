"""What tests of several commands need: a way to run one, images to score, a store with a run."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steel_batch.cli import cli, run
from steel_batch.lake import Lake
from tests.cli.command_line import Command, Done
from tests.conftest import DATE, PATTERN, fill_lake
from tests.made_up_run import commit_run, image_keys


@pytest.fixture
def steel_batch(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs a command in this process, just as the installed script does."""

    def invoke(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["steel-batch", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(cli)
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Done(int(ended.value.code or 0), out, err)

    handler = signal.getsignal(signal.SIGTERM)
    yield invoke
    signal.signal(signal.SIGTERM, handler)
    logging.getLogger("steel_batch").setLevel(logging.NOTSET)


@pytest.fixture
def images(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "images"))
    fill_lake(made, num_images=4)
    return made


@pytest.fixture
def flags(images: Lake, tmp_path: Path) -> list[str]:
    """What `score` needs."""
    store = str(tmp_path / "store")
    return ["--images", images.url, "--key-pattern", PATTERN, "--store", store, "--date", DATE]


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run."""
    path = tmp_path_factory.mktemp("committed") / "store"
    commit_run(Lake(str(path)), image_keys(8), bad=image_keys(1))
    return path
