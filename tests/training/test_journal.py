"""The reports of a training run survive damage to some of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.journal import FORMAT, Journal, read_journal

DAMAGED = ('{"step": null}', '{"loss": 0.5}', '{"step": 2, "loss": }', "[2]", '{"step": 2, "lo')


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_line_costs_itself_when_a_training_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"step": step, "loss": 0.5}) for step in (2, 4, 6)]
    path.write_text("\n".join((FORMAT.header, whole[0], damaged, *whole[1:])) + "\n")
    journal = Journal(path, 4, lambda _: None, source="store/metrics.jsonl", enabled=True)
    journal.write({"step": 6, "loss": 0.25})
    assert read_journal(path) == [
        {"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.5}, {"step": 6, "loss": 0.25},
    ]  # fmt: skip
    assert caplog.messages == [
        "store/metrics.jsonl: 1 damaged line(s) are left out; the report of this training lacks "
        "them."
    ]


def test_a_file_that_is_not_text_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\x00 no text")
    Journal(path, 4, lambda _: None, source="store/metrics.jsonl", enabled=True)
    assert read_journal(path) == []
