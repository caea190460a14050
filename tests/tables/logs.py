"""Writes entries of a table's log as this project and as others do, and says what a reader sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deltalake import CommitProperties, DeltaTable, Transaction

from steel_batch import layout
from steel_batch.errors import LakeError
from steel_batch.lake import Lake, LakeObject, ReadRequest
from steel_batch.tables.log_mirror import LogMirror, log_mirror
from steel_batch.tables.table_log import SCHEMAS

TABLE = layout.PREDICTIONS
LOG = f"{TABLE}/_delta_log/"


def append(store: Lake, version: int, writer: str, copy: LogMirror | None = None) -> bool:
    """An entry without files after a version, of a writer."""
    return (copy or log_mirror(store, TABLE)).append(
        store, version, [], SCHEMAS[TABLE], app_transactions=[Transaction(writer, 1)],
        metadata={"by": writer},
    )  # fmt: skip


def write_as_another_program(store: Lake, writer: str) -> None:
    DeltaTable(store.uri(TABLE)).create_write_transaction(
        [], "append", SCHEMAS[TABLE], partition_by=["engine", "date"],
        commit_properties=CommitProperties(app_transactions=[Transaction(writer, 1)]),
    )  # fmt: skip


def seen(opened: DeltaTable | None, writers: Sequence[str]) -> tuple[int, list[str]]:
    """A table's version, and which writers have a transaction in it."""
    assert opened is not None
    return opened.version(), [w for w in writers if opened.transaction_version(w) is not None]


class CountingLake(Lake):
    """Counts what is asked of the tables' logs."""

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self.num_listings = self.num_reads = 0

    def list_after(self, prefix: str, after: str) -> Iterator[LakeObject]:
        self.num_listings += "_delta_log" in prefix
        return super().list_after(prefix, after)

    def read_many(self, requests: Sequence[ReadRequest]) -> list[bytes | LakeError]:
        self.num_reads += sum("_delta_log" in request.key for request in requests)
        return super().read_many(requests)
