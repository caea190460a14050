"""A query's rows, read on demand, whose errors are this package's."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import duckdb
import pyarrow as pa

BATCH_ROWS: Final = 20_000


class Relation:
    """A `duckdb.DuckDBPyRelation` that raises `ConfigError` and `LakeError` instead of DuckDB's.

    It has all methods and attributes of DuckDB's relation. What they derive from it
    (``.filter(…)``, ``.order(…)``) is a `Relation` too. Arrow's C interface, by which
    ``pyarrow.table(relation)`` reads, passes on the text of an error after the first rows, not
    always its class.
    """

    __slots__ = ("_answering", "_relation")

    def __init__(
        self,
        relation: duckdb.DuckDBPyRelation,
        answering: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._relation = relation
        self._answering = answering

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Relation.__slots__:  # as `copy` asks an empty object
            raise AttributeError(name)
        with self._answering():
            found = getattr(self._relation, name)
        return self._guarded(found) if callable(found) else found

    def __getitem__(self, name: str) -> Any:
        return self._guarded(self._relation.__getitem__)(name)

    def __contains__(self, name: object) -> bool:
        return name in self._relation.columns

    def __len__(self) -> int:
        with self._answering():
            return len(self._relation)

    def __repr__(self) -> str:
        with self._answering():
            return repr(self._relation)

    def __str__(self) -> str:
        with self._answering():
            return str(self._relation)

    def __dir__(self) -> list[str]:
        return dir(self._relation)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow_reader().__arrow_c_stream__(requested_schema)

    def to_arrow_reader(self, batch_size: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """Return the rows as a stream of batches; memory use does not grow with the rows.

        Raises:
            ConfigError: The query fails.
            LakeError: A file cannot be read.
        """
        return pa.RecordBatchReader.from_batches(*self.read(batch_size))

    fetch_arrow_reader = fetch_record_batch = to_arrow_reader

    def read(self, batch_size: int = BATCH_ROWS) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the columns and the rows; memory use does not grow with the rows.

        The first rows are read before this returns, so that most errors are raised here.

        Raises:
            ConfigError: The query fails on some row.
            LakeError: A file cannot be read.
        """
        with self._answering():
            reader = self._relation.to_arrow_reader(batch_size)
        batches = self._batches(reader)
        first = list(itertools.islice(batches, 1))
        return reader.schema, itertools.chain(first, batches)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            with self._answering():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    def _guarded(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_inner(value) for value in args)
            with self._answering():
                found = method(*args, **{name: _inner(value) for name, value in kwargs.items()})
            is_relation = isinstance(found, duckdb.DuckDBPyRelation)
            return Relation(found, self._answering) if is_relation else found

        return call


def _inner(value: Any) -> Any:
    """Return DuckDB's relation of one of ours: DuckDB joins only its own."""
    return value._relation if isinstance(value, Relation) else value
