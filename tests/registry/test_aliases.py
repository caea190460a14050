from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steel_batch.errors import CommitConflictError
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.registry import aliases
from steel_batch.registry.aliases import AliasEntry


def moved(lake: Lake, *moves: str) -> list[AliasEntry]:
    """A history: "A" promotes version A, "-A" rolls back to it."""
    for move in moves:
        aliases.move(
            lake,
            "steel",
            "production",
            aliases.current(lake, "steel", "production"),
            version=move.lstrip("-"),
            action="rollback" if move[0] == "-" else "promote",
        )
    return aliases.history(lake, "steel", "production")


def test_a_moved_alias_keeps_its_history(lake: Lake) -> None:
    entries = moved(lake, "a", "b", "-a")
    assert [(e.number, e.action, e.previous, e.version) for e in entries] == [
        (1, "promote", None, "a"),
        (2, "promote", "a", "b"),
        (3, "rollback", "b", "a"),
    ]
    assert entries[-1] == aliases.current(lake, "steel", "production")
    assert all("@" in entry.by and entry.at for entry in entries)
    assert aliases.names(lake, "steel") == ["production"]


def test_of_many_that_move_an_alias_at_once_one_does(lake: Lake) -> None:
    (seen,) = moved(lake, "a")

    def move(version: str) -> str | None:
        try:
            return aliases.move(
                lake, "steel", "production", seen, version=version, action="promote"
            ).version
        except CommitConflictError:
            return None

    with ThreadPoolExecutor(8) as threads:
        winners = [version for version in threads.map(move, "bcdefghi") if version]
    assert [entry.version for entry in aliases.history(lake, "steel", "production")] == [
        "a", *winners
    ]  # fmt: skip
    assert len(winners) == 1
    with pytest.raises(
        CommitConflictError, match=f"steel@production was just moved to {winners[0]} by"
    ) as lost:
        aliases.move(lake, "steel", "production", seen, version="j", action="promote")
    assert command(lake, "engines", "show", "steel@production") in str(lost.value)


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], None),
        (["a"], None),
        (["a", "b"], "a"),
        (["a", "b", "c"], "b"),
        (["a", "b", "c", "-b"], "a"),
        (["a", "b", "c", "-b", "-a"], None),
        (["a", "b", "c", "-b", "d"], "b"),
        (["a", "b", "-a", "b"], "a"),
        (["a", "b", "a"], "b"),
        (["a", "b", "a", "-b"], None),
        (["a", "b", "a", "-b", "a"], "b"),
        (["c", "a", "b", "a", "-b"], "c"),
        (["b", "a", "b", "a", "-b"], None),
        (["a", "b", "a", "c", "-a"], "b"),
    ],
)
def test_going_back_again_goes_further_back_and_never_to_what_was_left(
    tmp_path: Path, moves: list[str], expected: str | None
) -> None:
    lake = Lake(str(tmp_path / "store"))
    assert aliases.before(moved(lake, *moves)) == expected


def test_a_version_counts_as_left_until_it_is_promoted_again(
    tmp_path: Path,
) -> None:
    lake = Lake(str(tmp_path / "store"))
    entries = moved(lake, "a", "b", "c", "-b", "-a")
    assert aliases.rolled_back_from(entries, "c") == entries[3]
    assert aliases.rolled_back_from(entries, "b") == entries[4]
    assert aliases.rolled_back_from(entries, "a") is None
    assert aliases.rolled_back_from(moved(lake, "c"), "c") is None
