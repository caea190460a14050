"""Documents of a store: values of other types, names and numbers are one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from steel_batch.errors import LakeError
from steel_batch.lake import Lake, series
from steel_batch.lake.documents import list_of, parse_json, read_document, record_of
from steel_batch.lake.lock import Lease, holder_of

HOLDER = {
    "token": "t", "host": "h", "pid": 7, "user": "u", "run_id": "r", "acquired_at": 1.7e9,
    "expires_at": 1.7e9, "released": False, "lease_seconds": 60.0,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    name: str


@dataclass(frozen=True)
class Whole:
    number: int
    share: float
    parts: tuple[Part, ...]
    pair: tuple[str, int] | None
    kind: Literal["a", "b"]
    values: Mapping[str, float]
    anything: Any = None
    flags: dict[str, bool] = field(default_factory=dict)


GOOD = {
    "number": 3, "share": 1, "parts": [{"name": "ü"}], "pair": ["x", 1], "kind": "a",
    "values": {"k": 0.5}, "anything": [1, {"y": None}], "flags": {"on": True},
}  # fmt: skip


def test_a_record_is_read_as_its_annotations_say() -> None:
    found = record_of(Whole, parse_json(json.dumps(GOOD)))
    assert found == Whole(
        number=3, share=1.0, parts=(Part("ü"),), pair=("x", 1), kind="a", values={"k": 0.5},
        anything=[1, {"y": None}], flags={"on": True},
    )  # fmt: skip
    assert isinstance(found.share, float)
    assert record_of(Whole, {**GOOD, "pair": None}).pair is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number": "3"}, "'number' is '3', expected a whole number"),
        ({"number": True}, "'number' is True"),
        ({"number": 3.0}, "'number' is 3.0"),
        ({"number": 1 << 63}, "'number' is 9223372036854775808"),
        ({"share": float("nan")}, "'share' is nan, expected a number"),
        ({"share": 10**400}, "'share' is "),
        ({"parts": {}}, "'parts' is {}"),
        ({"parts": [{"name": None}]}, "'name' is None, expected text"),
        ({"parts": [{"name": "\ud800"}]}, "'name' is text that is not Unicode"),
        ({"parts": [{"name": "x", "more": 1}]}, "unknown field 'more'"),
        ({"pair": ["x"]}, "'pair' is "),
        ({"kind": "c"}, "'kind' is 'c'"),
        ({"values": {"k": "v"}}, "'values' is 'v'"),
        ({"flags": {"on": 1}}, "'flags' is 1, expected true or false"),
    ],
)
def test_another_value_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        record_of(Whole, {**GOOD, **changes})


def test_what_is_no_record_is_named() -> None:
    kinds: tuple[Any, ...] = (None, [], 7, "text")
    for raw in kinds:
        with pytest.raises(ValueError, match="not an object"):
            record_of(Part, raw)
        with pytest.raises(ValueError, match=r"not a list|'item' is"):
            list_of(Part, raw if raw != [] else [None])
    with pytest.raises(ValueError, match="it has no 'name'"):
        record_of(Part, {})
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * 100_000)


def test_a_document_above_its_limit_is_not_read(lake: Lake) -> None:
    lake.write("a.json", bytes(100))
    assert read_document(lake, "a.json", max_bytes=100) == bytes(100)
    assert read_document(lake, "b.json") is None
    with pytest.raises(LakeError, match="at most 99 are read"):
        read_document(lake, "a.json", max_bytes=99)


@pytest.mark.parametrize(
    "name", ["1.json", "²3456789.json", f"{'9' * 5000}.json"[:200], "00000001.json.bak",
             "-0000001.json", "+0000001.json", "0000_0002.json", "x/00000009.json"],
)  # fmt: skip
def test_a_strange_name_is_no_entry_of_a_series(lake: Lake, name: str) -> None:
    lake.write(f"s/{name}", b"{}")
    assert series.numbers(lake, "s") == []
    assert series.latest(lake, "s") is None
    assert series.put_next(lake, "s", 1, b"one")
    assert series.latest(lake, "s") == (1, b"one")


@pytest.mark.parametrize(
    "changes",
    [
        {"acquired_at": 1e300}, {"acquired_at": -1e15}, {"expires_at": 1e17},
        {"lease_seconds": 1e12}, {"lease_seconds": None, "expires_at": 2e11},
        {"acquired_at": "soon"}, {"pid": 1 << 70}, {"released": 0}, {"user": ["root"]},
    ],
)  # fmt: skip
def test_a_lock_with_absurd_values_is_one_sentence(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    store = Lake(str(tmp_path))
    store.write("locks/a/00000001.json", json.dumps({**HOLDER, **changes}).encode())
    for use in (
        lambda: holder_of(store, "locks/a"),
        lambda: Lease(store, "locks/a", what="the date").__enter__(),
    ):
        with pytest.raises(LakeError, match=r"00000001\.json is not a valid lock entry.*delete it"):
            use()
