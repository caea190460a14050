"""Receipts: durable proof that one shard of a run is scored, and where its rows are staged.

The staged file is written first, under a name derived from its content; the receipt second, only if
there is none yet. If two attempts score one shard, the first receipt is the valid one, and the
other attempt can never overwrite the file that it names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from steel_batch import layout
from steel_batch.errors import LakeError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.format_version import FileFormat

READ_AT_ONCE: Final = 1024
FORMAT: Final = FileFormat("a receipt")
"""Of the receipt and of the columns of its staged rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedImage:
    """One quarantined image."""

    image_key: str
    error_code: str
    message: str
    bytes: int
    etag: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What is recorded of one scored shard."""

    run_id: str
    plan_digest: str
    shard: int
    num_images: int
    num_rows: int
    staged: str | None
    """Key of the staged rows; None if every image of the shard is quarantined."""
    staged_bytes: int
    staged_sha256: str
    num_defective: tuple[int, ...]
    """Per class, the number of images of the shard with that defect."""
    quarantined: tuple[QuarantinedImage, ...]
    seconds: float
    scored_at: str
    scorer: str
    """Host, runtime and device that scored it."""

    def to_json(self) -> bytes:
        """Serialise the receipt as one line of JSON."""
        return FORMAT.dump(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str) -> Receipt:
        """Parse a receipt.

        Raises:
            FormatError: It has a newer format.
            ValueError: It is damaged.
        """
        try:
            raw = FORMAT.load(text, source=source)
            return cls(
                **{
                    **raw,
                    "num_defective": tuple(raw["num_defective"]),
                    "quarantined": tuple(QuarantinedImage(**q) for q in raw["quarantined"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a receipt: {error!r}") from error


def stage(store: Lake, run_id: str, shard: int, rows: bytes) -> tuple[str, str]:
    """Write one shard's rows; writing the same content twice is harmless.

    Returns:
        The key and the SHA-256 of the staged file.
    """
    sha256 = hashlib.sha256(rows).hexdigest()
    key = layout.shard_file(run_id, shard, sha256[:12])
    store.write(key, rows)
    return key, sha256


def put_receipt(store: Lake, receipt: Receipt) -> Receipt:
    """Make a receipt durable; if another attempt's receipt is already there, return that one."""
    key = layout.receipt_file(receipt.run_id, receipt.shard)
    if store.put_if_absent(key, receipt.to_json()):
        return receipt
    return Receipt.from_json(store.read(key), source=store.uri(key))


def quarantined_images(store: Lake, run_id: str) -> Iterator[QuarantinedImage]:
    """Yield the images that a run quarantined so far, committed or not, in the order of its shards.

    Damaged receipts are skipped; nothing is deleted.

    Raises:
        FormatError: A receipt has a newer format.
    """
    keys = iter(sorted(item.key for item in store.list_objects(layout.receipts_dir(run_id))))
    while batch := list(islice(keys, READ_AT_ONCE)):
        found = store.read_many([ReadRequest(key=key) for key in batch])
        for key, data in zip(batch, found, strict=True):
            if isinstance(data, LakeError) and not isinstance(data, MissingObjectError):
                raise data
            if isinstance(data, bytes):
                with contextlib.suppress(ValueError):
                    yield from Receipt.from_json(data, source=store.uri(key)).quarantined


def check_formats(store: Lake, run_id: str) -> None:
    """Refuse a run with a receipt that this build does not read; damaged ones pass.

    Raises:
        FormatError: One is of a newer format.
    """
    for _ in quarantined_images(store, run_id):
        pass


def read_receipts(store: Lake, run_id: str, plan_digest: str) -> Iterator[Receipt]:
    """Yield every valid receipt of a run, in no particular order, holding few at a time.

    A receipt that is damaged, belongs to another plan, or whose staged file is missing or has
    another size is deleted, so that its shard is scored again. The digest of the staged file is
    checked when it is merged. Only the holder of the run's lock may call this.

    Raises:
        FormatError: A receipt has a newer format; it is not deleted.
    """
    staged = {
        item.key: item.size_bytes for item in store.list_objects(f"{layout.RUNS}/{run_id}/shards/")
    }
    keys = (item.key for item in store.list_objects(layout.receipts_dir(run_id)))
    while batch := list(islice(keys, READ_AT_ONCE)):
        invalid = []
        for key, data in zip(
            batch, store.read_many([ReadRequest(key=k) for k in batch]), strict=True
        ):
            if isinstance(data, LakeError) and not isinstance(data, MissingObjectError):
                raise data
            receipt = None
            if not isinstance(data, LakeError):
                receipt = _valid(data, store.uri(key), plan_digest, staged)
            if receipt is None:
                invalid.append(key)
            else:
                yield receipt
        store.delete(invalid)


def _valid(data: bytes, source: str, plan_digest: str, staged: Mapping[str, int]) -> Receipt | None:
    try:
        receipt = Receipt.from_json(data, source=source)
    except ValueError:
        return None
    whole = receipt.staged is None or staged.get(receipt.staged) == receipt.staged_bytes
    return receipt if whole and receipt.plan_digest == plan_digest else None
