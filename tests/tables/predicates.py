"""Random predicates over a table, as each reader takes them and as pandas answers them.

A predicate is never true of a null, in any of the readers: only tests of a single column are
negated, and what is null is left out there.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from hypothesis import strategies as st

Mask = Any
"""A pandas column of booleans."""


@dataclass(frozen=True, kw_only=True)
class Predicate:
    """One condition in four languages."""

    sql: str
    arrow: pc.Expression
    polars: pl.Expr
    mask: Callable[[pd.DataFrame], Mask]

    def __repr__(self) -> str:
        return self.sql

    def __and__(self, other: Predicate) -> Predicate:
        return Predicate(
            sql=f"({self.sql} AND {other.sql})",
            arrow=self.arrow & other.arrow,
            polars=self.polars & other.polars,
            mask=lambda frame: self.mask(frame) & other.mask(frame),
        )

    def __or__(self, other: Predicate) -> Predicate:
        return Predicate(
            sql=f"({self.sql} OR {other.sql})",
            arrow=self.arrow | other.arrow,
            polars=self.polars | other.polars,
            mask=lambda frame: self.mask(frame) | other.mask(frame),
        )


_COMPARISONS: Final = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def literal(value: Any) -> str:
    """A value in SQL."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, datetime.datetime):
        return f"TIMESTAMPTZ '{value.isoformat(sep=' ')}'"
    if isinstance(value, datetime.date):
        return f"DATE '{value}'"
    return repr(value)


def quoted(field: pa.Field) -> str:
    """A column's name in SQL; ``at`` is a word of it."""
    return f'"{field.name}"'


def _present(frame: pd.DataFrame, name: str, test: Callable[[Any], bool]) -> Mask:
    """Where a column is not null and passes."""
    return frame[name].map(lambda value: value is not None and test(value)).astype(bool)


def compare(field: pa.Field, operator: str, value: Any) -> Predicate:
    """A column against a value."""
    test = _COMPARISONS[operator]
    scalar = pa.scalar(value, field.type)
    return Predicate(
        sql=f"{quoted(field)} {operator} {literal(value)}",
        arrow=test(ds.field(field.name), scalar),
        polars=test(pl.col(field.name), pl.lit(value)),
        mask=lambda frame: _present(frame, field.name, lambda found: test(found, value)),
    )


def is_in(field: pa.Field, values: Sequence[Any], *, negated: bool) -> Predicate:
    """A column against some values."""
    column = ds.field(field.name)
    found = column.isin(pa.array(values, field.type))
    listed = pl.col(field.name).is_in(list(values))
    return Predicate(
        sql=f"{quoted(field)} {'NOT ' if negated else ''}IN ({', '.join(map(literal, values))})",
        arrow=~found & column.is_valid() if negated else found,
        polars=~listed & pl.col(field.name).is_not_null() if negated else listed,
        mask=lambda frame: _present(frame, field.name, lambda v: (v in values) != negated),
    )


def is_null(field: pa.Field, *, negated: bool) -> Predicate:
    """Whether a column, of any type, has a value."""
    column, named = ds.field(field.name), pl.col(field.name)
    return Predicate(
        sql=f"{quoted(field)} IS {'NOT ' if negated else ''}NULL",
        arrow=column.is_valid() if negated else column.is_null(),
        polars=named.is_not_null() if negated else named.is_null(),
        mask=lambda frame: frame[field.name].map(lambda value: (value is None) != negated),
    )


def like(field: pa.Field, part: str, *, negated: bool) -> Predicate:
    """A text column against ``%part%``."""
    column, pattern = ds.field(field.name), f"%{part}%"
    there = pl.col(field.name).str.contains(part, literal=True)
    return Predicate(
        sql=f"{quoted(field)} {'NOT ' if negated else ''}LIKE {literal(pattern)}",
        arrow=~pc.match_like(column, pattern) if negated else pc.match_like(column, pattern),
        polars=~there if negated else there,
        mask=lambda frame: _present(frame, field.name, lambda v: (part in v) != negated),
    )


def _others(value: Any) -> list[Any]:
    """Values next to one that is there."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        return [value + "x", value[:-1], value.upper(), ""]
    if isinstance(value, datetime.datetime):
        step = datetime.timedelta(microseconds=1)
        return [value - step, value + step, value + 1000 * step]
    if isinstance(value, datetime.date):
        return [value + datetime.timedelta(days=1), value - datetime.timedelta(days=300)]
    if isinstance(value, float):
        return [value / 2, value + 1, -0.0]
    return [min(value + 1, 127), max(value - 1, 0)]


def predicates(frame: pd.DataFrame, fields: pa.Schema) -> st.SearchStrategy[Predicate]:
    """Predicates over every column of a table, with values that are there and others near them.

    Args:
        frame: The rows, with None for null.
        fields: Their columns.
    """
    tests: list[st.SearchStrategy[Predicate]] = []
    for field in fields:
        tests += [st.builds(is_null, st.just(field), negated=st.booleans())]
        if pa.types.is_nested(field.type):
            continue
        there = sorted({value for value in frame[field.name] if value is not None})
        there = there or [{pa.string(): "cpu", pa.float32(): 0.5}.get(field.type, 1)]
        picked = [there[0], there[len(there) // 2], there[-1]]
        values = st.sampled_from([*there, *(o for value in picked for o in _others(value))])
        operators = ["=", "<>"] if pa.types.is_boolean(field.type) else list(_COMPARISONS)
        tests.append(
            st.builds(compare, st.just(field), st.sampled_from(operators), values),
        )
        tests.append(
            st.builds(
                is_in, st.just(field), st.lists(values, min_size=1, max_size=3),
                negated=st.booleans(),
            )
        )  # fmt: skip
        if pa.types.is_string(field.type):
            parts = [text[i : i + 4] for text in picked for i in (0, len(text) // 2)]
            parts = [part for part in parts if part and not re.search(r"[%_\\]", part)] or ["q"]
            tests.append(
                st.builds(like, st.just(field), st.sampled_from(parts), negated=st.booleans())
            )
    return st.recursive(
        st.one_of(tests),
        lambda inner: st.builds(lambda a, b, both: a & b if both else a | b, inner, inner,
                                st.booleans()),
        max_leaves=4,
    )  # fmt: skip
