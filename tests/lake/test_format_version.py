"""A durable file states its format, and one of a newer format is refused by name."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.errors import FormatError
from steel_batch.lake.format_version import FileFormat

NOTE = FileFormat("a note", newest=3)
LIST = FileFormat("a list of notes", newest=2, bare="notes")
FIELDS = {"text": "a", "sizes": [1, 2]}


def test_fields_are_read_as_they_were_written_and_the_format_is_stated() -> None:
    data = NOTE.dump(FIELDS)
    assert json.loads(data)["format"] == 3
    assert NOTE.load(data, source="s") == FIELDS


def test_a_file_without_a_format_is_format_1() -> None:
    assert NOTE.load(json.dumps(FIELDS), source="s") == FIELDS


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_format_so_far_is_read(number: int) -> None:
    assert NOTE.load(json.dumps({**FIELDS, "format": number}), source="s") == FIELDS


def test_a_list_of_before_is_the_field_that_holds_it_now() -> None:
    assert LIST.load("[1, 2]", source="s") == {"notes": [1, 2]}
    assert LIST.load(LIST.dump({"notes": [1, 2]}), source="s") == {"notes": [1, 2]}


def test_a_newer_format_is_refused_with_what_was_found_what_is_read_and_what_to_do() -> None:
    with pytest.raises(FormatError) as caught:
        NOTE.load(json.dumps({"format": 4, "words": []}), source="/store/a.json")
    assert caught.value.message == (
        "/store/a.json is a note of format 4; this steel-batch reads formats 1 to 3. A newer "
        "steel-batch wrote it: upgrade steel-batch on this machine and on the cluster's nodes, "
        "then run the command again."
    )
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message  # noqa: S301


@given(
    st.integers(max_value=0) | st.booleans() | st.floats() | st.text() | st.none()
    | st.lists(st.integers()) | st.dictionaries(st.text(), st.integers())
)  # fmt: skip
def test_what_is_no_format_is_not_taken_for_one(found: object) -> None:
    with pytest.raises(FormatError, match="No steel-batch writes that: restore"):
        NOTE.check(found, source="s")


@pytest.mark.parametrize("text", ["[]", "7", "null", '"format"', "{", ""])
def test_what_has_no_fields_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        NOTE.load(text, source="s")


def test_lines_are_read_with_and_without_a_header() -> None:
    lines = ['{"event": "a"}', '{"event": "b"}']
    assert NOTE.lines([NOTE.header, *lines], source="s") == lines
    assert NOTE.lines(lines, source="s") == lines
    assert NOTE.lines([], source="s") == []
    assert NOTE.lines(["{", *lines], source="s") == ["{", *lines]


def test_lines_under_a_newer_header_are_refused() -> None:
    with pytest.raises(FormatError, match="s is a note of format 4"):
        NOTE.lines(['{"format": 4, "by": "x"}', "…"], source="s")
