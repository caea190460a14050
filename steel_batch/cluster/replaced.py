"""Replaces what a library's own code looks up in a module, for a `with` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """Give an attribute of a module another value.

    Args:
        module: The module.
        name: The attribute, which it has.
        value: The value.
    """
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
