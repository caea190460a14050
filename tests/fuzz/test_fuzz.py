"""No reader of what others write raises an error that is not ours, hangs, or takes much memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hypothesis
import pytest

from tests.conftest import examples
from tests.fuzz.loop import FoundError, fuzz, run
from tests.fuzz.targets import TARGETS, Fuzzed

NUM_INPUTS = 240
"""Of each target, a third of them where the same ones are drawn every time."""


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_refused_as_they_should_be(name: str) -> None:
    seed = 1 if hypothesis.settings().derandomize else None
    num_inputs = examples(NUM_INPUTS)
    assert fuzz(name, seed=seed or 20261129, num_inputs=num_inputs) == num_inputs


def test_an_error_of_another_library_is_found() -> None:
    def read(data: bytes, _: Path) -> None:
        data.decode()

    with pytest.raises(FoundError, match="UnicodeDecodeError") as found:
        run(Fuzzed(read, list[bytes]), b"\xff")
    assert found.value.data == b"\xff"


def test_each_target_takes_its_good_inputs(tmp_path: Path) -> None:
    taken: Sequence[str] = [
        name
        for name, fuzzed in TARGETS.items()
        if name not in ("header", "inventory")  # bad files, and keys that are looked up
        for data in fuzzed.seeds()[:1]
        if fuzzed.run(data, _made(tmp_path / name)) is None  # type: ignore[func-returns-value]
    ]
    assert set(taken) == TARGETS.keys() - {"header", "inventory"}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
