"""Rows that other programs deleted without rewriting the files: Delta's deletion vectors.

Spark and others can mark rows of a file as deleted in the table's log. deltalake's Arrow reader
refuses a table that may contain such marks, even if it contains none; this module reads them.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from deltalake import DeltaTable

from steel_batch.errors import LakeError

Kept = bytes
"""Which rows of a file were not deleted: one bit per row, most significant bit first. Rows after
the last bit are kept."""
_FEATURE: Final = "deletionVectors"
_READ: Final = {_FEATURE, "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
"""Features of Delta tables whose files are read correctly here."""
_MAPPING: Final = "delta.columnMapping.mode"


def check_features(opened: DeltaTable, uri: str) -> None:
    """Refuse a table whose files must be read in a way that is not supported here.

    Args:
        opened: The table.
        uri: Where it is.

    Raises:
        LakeError: It has such a feature.
    """
    others = set(opened.protocol().reader_features or ()) - _READ
    if opened.metadata().configuration.get(_MAPPING, "none") != "none":
        others.add("columnMapping")
    if others:
        raise LakeError(
            f"the table {uri} has the Delta feature {', '.join(sorted(others))}, with "
            "which steel-batch cannot read its files. Another program has enabled it: remove it "
            "there (ALTER TABLE … DROP FEATURE), or restore the table's folder from a backup."
        )


def may_have_vectors(opened: DeltaTable) -> bool:
    """Whether some files of a table may have deleted rows."""
    return _FEATURE in (opened.protocol().reader_features or ())


def kept_rows(opened: DeltaTable) -> dict[str, Kept]:
    """The files with deleted rows, by their path in the table, and which rows they keep."""
    if not may_have_vectors(opened):
        return {}
    vectors = pa.table(opened.deletion_vectors())
    root = opened.table_uri.rstrip("/") + "/"
    return {
        unquote(path.as_py().removeprefix(root)): _packed(
            kept.values.to_numpy(zero_copy_only=False).astype(bool)
        )
        for path, kept in zip(vectors["filepath"], vectors["selection_vector"], strict=True)
    }


def _packed(kept: npt.NDArray[np.bool_]) -> Kept:
    return np.packbits(np.pad(kept, (0, -len(kept) % 8), constant_values=True)).tobytes()


def select(kept: Kept, start: int, num_rows: int) -> npt.NDArray[np.bool_]:
    """Which of some rows of a file are kept."""
    bits = np.unpackbits(np.frombuffer(kept, np.uint8))[start : start + num_rows].astype(bool)
    return np.concatenate([bits, np.ones(num_rows - len(bits), bool)])
