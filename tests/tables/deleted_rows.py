"""Deletion vectors, put into a table's log as Spark does: deltalake writes none.

The vector stands in the log itself: a RoaringBitmap of 64 bits in its portable form, as Z85.
Sources: https://github.com/delta-io/delta/blob/master/PROTOCOL.md and
https://github.com/RoaringBitmap/RoaringFormatSpec.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

from steel_batch.lake import Lake
from steel_batch.tables.table_log import LiveFile

_Z85: Final = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_FEATURE: Final = ["deletionVectors"]


def set_features(store: Lake, table: str, features: Sequence[str] = _FEATURE) -> None:
    """Let a table have deletion vectors, or what else can be read by its features."""
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": list(features),
        "writerFeatures": list(features),
    }
    _append(store, table, [{"protocol": protocol}])


def delete_rows(store: Lake, table: str, file: LiveFile, rows: Sequence[int]) -> None:
    """Mark some of a file's first 65,536 rows as deleted; once for each file."""
    assert file.kept is None
    path = file.key.removeprefix(f"{table}/")
    partition = {"engine": file.engine, "date": file.date}
    vector = _bitmap(sorted(rows))
    removed = {
        "path": path, "deletionTimestamp": 1, "dataChange": True, "extendedFileMetadata": True,
        "partitionValues": partition, "size": file.size_bytes,
    }  # fmt: skip
    added = {
        "path": path, "partitionValues": partition, "size": file.size_bytes, "modificationTime": 1,
        "dataChange": True, "stats": json.dumps({"numRecords": file.num_rows}),
        "deletionVector": {
            "storageType": "i", "pathOrInlineDv": _z85(vector), "sizeInBytes": len(vector),
            "cardinality": len(rows),
        },
    }  # fmt: skip
    _append(store, table, [{"remove": removed}, {"add": added}])


def _append(store: Lake, table: str, actions: Sequence[dict[str, Any]]) -> None:
    log = f"{table}/_delta_log/"
    entries = [item.key for item in store.list_objects(log) if item.key.endswith(".json")]
    number = 1 + max(int(key.removeprefix(log).removesuffix(".json")) for key in entries)
    text = "\n".join(map(json.dumps, actions)) + "\n"
    store.write(f"{log}{number:020d}.json", text.encode())


def _bitmap(rows: Sequence[int]) -> bytes:
    magic, one_key, first_key = struct.pack("<I", 1681511377), struct.pack("<Q", 1), bytes(4)
    cookie_and_count = struct.pack("<II", 12346, 1)
    container = struct.pack("<HHI", 0, len(rows) - 1, 16)
    values = b"".join(struct.pack("<H", row) for row in rows)
    return magic + one_key + first_key + cookie_and_count + container + values


def _z85(data: bytes) -> str:
    data += bytes(-len(data) % 4)
    text = ""
    for start in range(0, len(data), 4):
        number = int.from_bytes(data[start : start + 4], "big")
        text += "".join(_Z85[number // 85**power % 85] for power in range(4, -1, -1))
    return text
