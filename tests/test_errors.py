"""Errors keep what they know when Ray ships them to the driver."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from steel_batch import errors
from steel_batch.errors import ImageError, SteelBatchError, printable, redacted
from steel_batch.tables.merge import DamagedShardError


def tree(root: type[SteelBatchError]) -> Iterator[type[SteelBatchError]]:
    """An error and everything below it."""
    yield root
    for branch in root.__subclasses__():
        yield from tree(branch)


CLASSES = sorted(set(tree(SteelBatchError)), key=lambda cls: cls.__name__)


def shipped(error: SteelBatchError) -> SteelBatchError:
    found = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own object, as Ray ships it
    assert isinstance(found, SteelBatchError)
    return found


@pytest.mark.parametrize("kind", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_the_way_to_the_driver(kind: type[SteelBatchError]) -> None:
    error = kind("what was found, what was expected.")
    again = shipped(error)
    assert type(again) is kind
    assert again.message == str(again) == "what was found, what was expected."
    assert again.exit_code == error.exit_code
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_can_be_made_without_a_message(kind: type[SteelBatchError]) -> None:
    assert shipped(kind()).message == ""


@pytest.mark.parametrize(
    "kind", [cls for cls in CLASSES if issubclass(cls, ImageError)], ids=lambda cls: cls.__name__
)
def test_the_code_of_an_image_error_survives_too(kind: type[ImageError]) -> None:
    assert shipped(kind("it ends early.", code="truncated")).code == "truncated"  # type: ignore[attr-defined]
    assert shipped(kind("it ends early.")).code == kind.default_code  # type: ignore[attr-defined]


def test_a_damaged_shard_says_which_it_was_at_the_driver() -> None:
    again = shipped(DamagedShardError("its digest is another.", shard=7))
    assert isinstance(again, DamagedShardError)
    assert again.shard == 7


def test_exit_codes_are_those_of_the_command_line() -> None:
    codes = {cls.__name__: cls.exit_code for cls in CLASSES if cls.exit_code != 1}
    wrong_usage = {"ConfigError": 2, "PlanMismatchError": 2}
    assert codes == {"LockHeldError": 4, "TooManyBadImagesError": 3, **wrong_usage}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    own = {cls.__name__ for cls in CLASSES if cls.__module__ == "steel_batch.errors"}
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    assert drawn == own


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("GET https://h/a?X-Amz-Signature=s&x=1: 403", "GET https://h/a?… 403"),
        ("'http://user:word@h:9000/b' does not answer", "'http://…@h:9000/b' does not answer"),
        ("HTTPS://token@h/a?b", "HTTPS://…@h/a?…"),
        ("s3://key:word@bucket/a", "s3://…@bucket/a"),
        ("s3://bucket/a?b.jpg", "s3://bucket/a?b.jpg"),
        ("s3://bucket/a@b.jpg", "s3://bucket/a@b.jpg"),
        ("http://h/a@b", "http://h/a@b"),
        ("is it there? see https://h/x.", "is it there? see https://h/x."),
    ],
)
def test_what_is_secret_in_a_url_is_in_no_message(text: str, left: str) -> None:
    assert redacted(text) == redacted(left) == left
    assert str(SteelBatchError(text)) == left


def test_control_characters_are_shown_as_escapes_and_other_signs_as_they_are() -> None:
    kept = "Blech-1 Ünïcode 板 ✓ a\u0301"
    assert printable(kept) == kept
    for char in "\x00\x07\x1b\x7f\x9b\r\t\u200b\u200e\u2028\u202e\u2066\ufeff\U000e0041\udc80":
        assert printable(f"a{char}b") == f"a{ascii(char)[1:-1]}b"
    assert printable("a\nb") == "a\nb"
    assert printable("a\nb", lines=False) == "a\\nb"
