"""What the tests of manifests need: images in a lake, and how a manifest names them."""

from __future__ import annotations

import pytest

from steel_batch.lake import Lake
from steel_batch.sources.contract import Source
from tests.sources.made_up_sources import source_of


def below(source: Source, lake: Lake) -> str:
    """Where a lake lies below what a manifest's keys are relative to, as a prefix of keys."""
    rest = lake.url.removeprefix(source.lake.url).strip("/")
    return f"{rest}/" if rest else ""


@pytest.fixture
def place(lake: Lake) -> tuple[Lake, str]:
    """A lake of three images, and the prefix that a manifest in it gives their keys."""
    for name in "abc":
        lake.write(f"line=1/{name}.jpg", name.encode() * 5)
    lake.write("x.csv", b"key\n")
    return lake, below(source_of(lake, None, "x.csv"), lake)
