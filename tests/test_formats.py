"""The formats of durable files: none changes unless its number does, and the page states each.

`python -m tests.test_formats` writes the golden list again, where a number was raised.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final

import pytest

from steel_batch import schema
from steel_batch.engine import compiled_plans
from steel_batch.lake import lock
from steel_batch.lake.format_version import FileFormat
from steel_batch.pipeline import ledger
from steel_batch.registry import aliases, card, signatures
from steel_batch.runs import events, plan, receipt, record
from steel_batch.sources import tar_index
from steel_batch.tables import file_lists

ROOT: Final = Path(__file__).parents[1]
GOLDEN: Final = ROOT / "tests" / "golden" / "formats.txt"


def names(*kinds: type) -> list[str]:
    """The fields of dataclasses."""
    return [f"{kind.__name__}.{each.name}" for kind in kinds for each in dataclasses.fields(kind)]


def columns(name: str) -> list[str]:
    fields = getattr(schema, name)
    return [f"{name}.{field.name} {field.type}" for field in fields]


CONTENT: Final[dict[FileFormat, list[str]]] = {
    record.RECORD: names(record.RunRecord),
    record.RESULT: names(record.RunResult, record.ClassCount),
    plan.FORMAT: names(plan.PlanInfo) + columns("PLAN"),
    receipt.FORMAT: names(receipt.Receipt, receipt.QuarantinedImage) + columns("PREDICTIONS"),
    file_lists.FILES: names(file_lists.DataFile),
    file_lists.REPLACED: ["keys"],
    events.FORMAT: ["at", "event"],
    card.FORMAT: names(card.Card, card.PostProcess, card.Graph),
    compiled_plans.FORMAT: names(compiled_plans.PlanRecord),
    aliases.FORMAT: names(aliases.AliasEntry),
    signatures.FORMAT: ["hmac_sha256"],
    lock.FORMAT: names(lock.Holder),
    ledger.ENTRY: ["result", "seconds"],
    tar_index.FORMAT: names(tar_index.ShardHead, tar_index.Entry),
}
"""What is in each kind of file, but for those of `training`, which changes with every recipe."""


def text() -> str:
    """The golden list."""
    lines = []
    for form, content in CONTENT.items():
        lines += [f"{form.what}: format {form.newest}", *(f"  {name}" for name in content), ""]
    return "\n".join(lines)


def test_what_is_in_a_file_changes_only_where_its_format_is_raised() -> None:
    assert text() == GOLDEN.read_text(), (
        "what is in a durable file has changed: raise `newest` of its FileFormat, have the formats "
        "before it read (a test on a file of them), and run `python -m tests.test_formats`."
    )


def declared() -> list[tuple[str, int]]:
    """What each FileFormat of the sources says of itself: its file and its newest format."""
    found = []
    for folder in ("steel_batch", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for arguments in re.findall(r"= FileFormat\(([^)]*)\)", path.read_text()):
                what = re.search(r'"([^"]*)"', arguments)
                newest = re.search(r"newest=(\d+)", arguments)
                assert what is not None
                found.append((what[1], int(newest[1]) if newest else 1))
    return found


def test_every_format_of_the_package_is_in_the_golden_list() -> None:
    listed = {(form.what, form.newest) for form in CONTENT}
    assert {form for form in declared() if form not in listed} == {
        ("a checkpoint", 1),
        ("the journal of a training", 1),
    }
    assert len(declared()) == len({what for what, _ in declared()})


@pytest.mark.parametrize(("what", "newest"), declared())
def test_the_page_of_the_stores_files_states_each_format(what: str, newest: int) -> None:
    page = (ROOT / "docs" / "reference" / "store.md").read_text()
    assert f"| {what} | {newest} |" in page


if __name__ == "__main__":
    GOLDEN.write_text(text())
