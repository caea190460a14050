"""Names the format of a file that is not supported, by its first bytes and never by its name."""

from __future__ import annotations

from typing import Final

from steel_batch.errors import DecodeError

READ: Final = (
    "JPEG of 8 bits, PNG, BMP, WebP, binary PGM (P5), and TIFF of at most 16 bits, plain or with "
    "LZW, Deflate or PackBits"
)
"""The supported formats, for messages."""
_IMAGES: Final = (
    (0, b"GIF8", "a GIF"),
    (0, b"II+\0", "a BigTIFF"),
    (0, b"MM\0+", "a BigTIFF"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"II\xbc", "a JPEG XR"),
    (0, b"\0\0\0\x0cJXS ", "a JPEG XS"),
    (0, b"\xff\x10\xff\x50", "a JPEG XS"),
    (4, b"ftyp", "an AVIF, HEIF or video"),
    (0, b"v/1\x01", "an OpenEXR"),
    (0, b"#?RADIANCE", "a Radiance HDR"),
    (0, b"#?RGBE", "a Radiance HDR"),
    (0, b"\x8aMNG\r\n\x1a\n", "an MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "a JNG"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"SIMPLE  =", "a FITS"),
    (128, b"DICM", "a DICOM"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5"),
    (0, b"DDS ", "a DDS"),
    (0, b"qoif", "a QOI"),
    (0, b"FLIF", "a FLIF"),
    (0, b"BPG\xfb", "a BPG"),
    (0, b"SDPX", "a DPX"),
    (0, b"XPDS", "a DPX"),
    (0, b"\x59\xa6\x6a\x95", "a Sun raster"),
    (0, b"\x01\xda", "an SGI image"),
    (0, b"\0\0\x01\0", "an icon (ICO)"),
    (0, b"IIRO", "an Olympus raw file"),
    (0, b"IIU\0", "a Panasonic raw file"),
    (0, b"FUJIFILMCCD-RAW", "a Fuji raw file"),
)
"""Offset of a format's signature, the signature, and the format's name."""
_NETPBM: Final = {
    b"P1": "a PBM (P1)",
    b"P2": "a PGM as text (P2)",
    b"P3": "a PPM as text (P3)",
    b"P4": "a PBM (P4)",
    b"P6": "a PPM (P6)",
    b"P7": "a PAM (P7)",
    b"PF": "a PFM (PF)",
    b"Pf": "a PFM (Pf)",
}
NETPBM_BLANKS: Final = b" \t\r\n\v\f#"
"""What may follow the two-byte Netpbm signature: white space, or the `#` of a comment."""
_NO_IMAGES: Final = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"<!DOCTYPE": "an HTML page",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML document",
    b"PAR1": "a Parquet file",
}


def unsupported(name: str) -> DecodeError:
    """The error for a file of a known but unsupported format."""
    return DecodeError(
        f"the file is {name}; supported are {READ}. Convert it.", code="unsupported_format"
    )


def not_an_image(data: memoryview) -> DecodeError:
    """The error for a file of unknown format."""
    return DecodeError(
        f"the file is not an image: it begins with {bytes(data[:8])!r} ({len(data)} bytes).",
        code="not_an_image",
    )


def name_other(data: memoryview) -> DecodeError:
    """The error for an unsupported file, with its format if that is known."""
    head = bytes(data[:160])
    for start, magic, name in _IMAGES:
        if head.startswith(magic, start):
            return unsupported(name)
    if head[:2] in _NETPBM and head[2:3] and head[2] in NETPBM_BLANKS:
        return unsupported(_NETPBM[head[:2]])
    for magic, name in _NO_IMAGES.items():
        if head.startswith(magic):
            return DecodeError(f"the file is {name}, not an image.", code="not_an_image")
    return not_an_image(data)
