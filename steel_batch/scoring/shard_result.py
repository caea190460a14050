"""What became of one shard, as it travels from a scoring actor to the driver."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from steel_batch import errors
from steel_batch.errors import LakeError, SteelBatchError, TransientLakeError
from steel_batch.runs.receipt import Receipt
from steel_batch.scoring.shard import ShardInput

WIRE = pa.schema([pa.field("result", pa.binary())])
"""JSON in one column, as each costs the scoring actor as much as some images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardResult:
    """What became of one shard."""

    run_id: str
    shard: int
    receipt: Receipt | None = None
    failure: str | None = None
    """Why there is no receipt."""
    transient: bool = True
    """Whether scoring it again may help."""
    error_kind: str | None = None
    """The class of what keeps an actor from scoring anything."""
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the requests met with that it took to read and to stage it; see `Lake.counts`."""

    @classmethod
    def of(cls, shard: ShardInput) -> ShardResult:
        """What is known of a shard before it is scored: why it could not be read, if so."""
        return cls(
            run_id=shard.run_id,
            shard=shard.shard,
            failure=shard.failure,
            transient=shard.transient,
            counts=shard.counts,
        )

    def failed(self, error: SteelBatchError) -> ShardResult:
        """The same shard, not scored: an error of the lake costs it a try, any other ends the run.

        Args:
            error: Why.
        """
        return dataclasses.replace(
            self,
            failure=error.message,
            transient=isinstance(error, TransientLakeError),
            error_kind=None if isinstance(error, LakeError) else type(error).__name__,
        )

    def check(self) -> None:
        """Raise what keeps an actor from scoring anything.

        Raises:
            SteelBatchError: It, of its own class.
        """
        if self.error_kind is not None:
            raise getattr(errors, self.error_kind, SteelBatchError)(self.failure or "")

    def to_wire(self) -> pa.Table:
        """The result as one row of `WIRE`."""
        row = {
            "run_id": self.run_id,
            "shard": self.shard,
            "receipt": None if self.receipt is None else self.receipt.to_json().decode(),
            "failure": self.failure,
            "transient": self.transient,
            "error_kind": self.error_kind,
            "counts": dict(self.counts),
        }
        return pa.table([[json.dumps(row).encode()]], schema=WIRE)

    @classmethod
    def from_wire(cls, table: pa.Table) -> Iterator[ShardResult]:
        """Read back rows of `WIRE`."""
        for content in table["result"].to_pylist():
            row = json.loads(content)
            text = row.pop("receipt")
            receipt = None
            if text is not None:
                receipt = Receipt.from_json(text, source="what an actor answered")
            yield cls(receipt=receipt, **row)
