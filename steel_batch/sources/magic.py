"""What a file really is, by its first bytes, if that differs from its name."""

from __future__ import annotations

from typing import Final

MAGIC_BYTES: Final = 10
_MAGIC: Final = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x1f\x9d": "compressed with compress",
    **{b"BZh%d1AY&SY" % level: "compressed with bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\0": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"LZIP\x01": "compressed with lzip",
    b"PK\x03\x04": "a ZIP archive",
    b"PK\x05\x06": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"!<arch>\n": "an ar archive",
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG": "a PNG",
}
"""Signatures that no file name begins with: a tar begins with its first member's name."""


def kind_of(beginning: bytes) -> str | None:
    """What a file is, as a phrase; None if its first bytes do not show it."""
    return next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), None)
