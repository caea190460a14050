"""Errors keep what they know when Ray ships them to the driver."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from steel_batch import errors
from steel_batch.errors import ImageError, SteelBatchError
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
