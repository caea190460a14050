"""Bad and strange image files, made in code, each with what has to become of it.

Nothing is read from disk and nothing is random, so a file's name is enough to talk about it. Most
are made from one good image of `HEIGHT`×`WIDTH` pixels by cutting, patching or rewriting what
OpenCV encodes; what it cannot encode is put together from its parts.
"""

from __future__ import annotations

import base64
import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.header_bombs import header_bombs
from tests.image_files import (
    ARITHMETIC_JPEG,
    HEIGHT,
    WIDTH,
    StrangeFile,
    decoded,
    encode,
    exif_segment,
    four_channels,
    frame_at,
    good_image,
    good_jpeg,
    png_chunk,
    png_of,
    png_rows,
    riff_chunk,
    riff_of,
    segment,
    tiff_of,
    with_segments,
    without_segment,
)
from tests.images.deep_files import Tiff


@functools.cache
def strange_files() -> list[StrangeFile]:
    """The whole corpus; names are unique and safe in keys. It takes half a second to make."""
    return [
        *_no_images(),
        *_cut_off(),
        *_strange_jpegs(),
        *_damaged_jpegs(),
        *_strange_pngs(),
        *_strange_bmps(),
        *_strange_tiffs(),
        *_strange_webps(),
        *_strange_pgms(),
        *_wrong_sizes(),
        *header_bombs(),
    ]


def _no_images() -> Iterator[StrangeFile]:
    yield StrangeFile("empty", b"", "empty")
    yield StrangeFile("one_byte", b"\xff", "not_an_image")
    yield StrangeFile("zeros", b"\0" * 4096, "not_an_image")
    yield StrangeFile("text", b"camera 3 is offline\n", "not_an_image")
    yield StrangeFile("html_error_page", b"<!DOCTYPE html><html>503</html>", "not_an_image")
    yield StrangeFile("html_after_spaces", b"\r\n  <html>404</html>", "not_an_image")
    yield StrangeFile("xml_error", b'<?xml version="1.0"?><Error>SlowDown</Error>', "not_an_image")
    yield StrangeFile("json_error", b'{"message": "Internal Server Error"}', "not_an_image")
    yield StrangeFile("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"0" * 200, "not_an_image")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("im.jpg", good_jpeg())
    yield StrangeFile("zip_of_a_jpeg", archive.getvalue(), "not_an_image")
    yield StrangeFile("gzip", b"\x1f\x8b\x08\0" + zlib.compress(b"x"), "not_an_image")
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [good_jpeg()]}), table)
    yield StrangeFile("parquet", table.getvalue(), "not_an_image")
    yield StrangeFile("base64_of_a_jpeg", base64.b64encode(good_jpeg()), "not_an_image")
    yield StrangeFile("riff_sound", riff_of(b"fmt " + b"\0" * 64, kind=b"WAVE"), "not_an_image")
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
    yield StrangeFile("gif", gif, "unsupported_format")
    yield StrangeFile("jpeg_2000", encode(".jp2", good_image()), "unsupported_format")
    yield StrangeFile(
        "jpeg_2000_codestream", b"\xff\x4f\xff\x51" + b"\0" * 64, "unsupported_format"
    )
    for brand in ("avif", "heic", "mif1", "isom"):
        head = b"\0\0\0\x1cftyp" + brand.encode() + b"\0\0\0\0" + brand.encode()
        yield StrangeFile(f"iso_{brand}", head + b"\0" * 64, "unsupported_format")
    yield StrangeFile("jpeg_xl", b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported_format")
    yield StrangeFile("exr", b"v/1\x01\x02\0\0\0" + b"\0" * 64, "unsupported_format")
    yield StrangeFile("ppm", b"P6\n8 8\n255\n" + b"\0" * 192, "unsupported_format")
    yield StrangeFile("big_tiff", b"II+\0\x08\0\0\0" + b"\0" * 64, "unsupported_format")


def _cut_off() -> Iterator[StrangeFile]:
    """Every format, cut in its magic number, its header, its pixels and one byte early."""
    whole = {
        "jpeg": good_jpeg(),
        "progressive": good_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restarts": good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "png": encode(".png", good_image()),
        "bmp": encode(".bmp", good_image()),
        "tiff": encode(".tiff", good_image()),
        "tiff_directory_first": tiff_of(good_image().tobytes()),
        "webp": encode(".webp", good_image(), cv2.IMWRITE_WEBP_QUALITY, 80),
        "webp_lossless": encode(".webp", good_image()),
    }
    for name, data in whole.items():
        for percent in (1, 5, 25, 50, 75, 95):
            size = max(16, len(data) * percent // 100)
            yield StrangeFile(f"cut_{name}_{percent}", data[:size], "truncated")
        yield StrangeFile(f"cut_{name}_last_byte", data[:-1], "truncated")
    jpeg = whole["jpeg"]
    yield StrangeFile("cut_jpeg_start_only", jpeg[:2], "truncated")
    yield StrangeFile("cut_png_magic_only", whole["png"][:8], "truncated")
    yield StrangeFile("cut_bmp_magic_only", b"BM", "truncated")
    yield StrangeFile("cut_tiff_magic_only", b"II*\0", "truncated")
    yield StrangeFile("cut_webp_magic_only", b"RIFF", "truncated")
    for percent in (30, 60, 90):
        cut = jpeg[: len(jpeg) * percent // 100].rstrip(b"\xff")
        yield StrangeFile(f"cut_and_closed_jpeg_{percent}", cut + b"\xff\xd9", "truncated")
    halves = jpeg[: len(jpeg) // 2].rstrip(b"\xff") + jpeg
    yield StrangeFile("cut_jpeg_then_whole_jpeg", halves, "truncated")


def _strange_jpegs() -> Iterator[StrangeFile]:
    """Unusual, and all right."""
    image_HW = good_image()
    jpeg = good_jpeg()
    pixels_HW = decoded(jpeg)
    yield StrangeFile("jpeg", jpeg, None, pixels_HW)
    yield StrangeFile("jpeg_progressive", good_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), None,
                      pixels_HW)  # fmt: skip
    yield StrangeFile("jpeg_restarts", good_jpeg(cv2.IMWRITE_JPEG_RST_INTERVAL, 3), None, pixels_HW)
    yield StrangeFile("jpeg_optimised", good_jpeg(cv2.IMWRITE_JPEG_OPTIMIZE, 1), None, pixels_HW)
    yield StrangeFile("jpeg_arithmetic", base64.b64decode(ARITHMETIC_JPEG), None)
    colour = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2BGR)
    yield StrangeFile("jpeg_colour", encode(".jpg", colour), None)
    yield StrangeFile("jpeg_cmyk", four_channels(jpeg, transform=0), None)
    yield StrangeFile("jpeg_ycck", four_channels(jpeg, transform=2), None)
    yield StrangeFile(
        "jpeg_rotated_by_exif", with_segments(jpeg, exif_segment(orientation=6)), None, pixels_HW
    )
    yield StrangeFile(
        "jpeg_mirrored_by_exif", with_segments(jpeg, exif_segment(orientation=2)), None, pixels_HW
    )
    thumbnail = encode(".jpg", image_HW[:16, :16])
    yield StrangeFile("jpeg_with_thumbnail",
                      with_segments(jpeg, exif_segment(orientation=1, thumbnail=thumbnail)), None,
                      pixels_HW)  # fmt: skip
    huge = [segment(0xE1, b"Exif\0\0" + bytes(range(256)) * 255) for _ in range(40)]
    yield StrangeFile("jpeg_huge_exif", with_segments(jpeg, *huge), None, pixels_HW)
    profile = [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 3]) + b"\xff\xd9" * 999) for i in range(3)
    ]
    yield StrangeFile("jpeg_icc_of_end_markers", with_segments(jpeg, *profile), None, pixels_HW)
    yield StrangeFile("jpeg_comment", with_segments(jpeg, segment(0xFE, b"line 1\xff\xd8")), None,
                      pixels_HW)  # fmt: skip
    yield StrangeFile("jpeg_filled_with_ff", with_segments(jpeg, b"\xff" * 32), None, pixels_HW)
    yield StrangeFile("jpeg_trailing_garbage", jpeg + bytes(range(256)) * 8, None, pixels_HW)
    yield StrangeFile("jpeg_trailing_zeros", jpeg + b"\0" * 4096, None, pixels_HW)
    yield StrangeFile("jpeg_twice", jpeg + jpeg, "multiple_images")
    yield StrangeFile("jpeg_then_png", jpeg + encode(".png", image_HW), None, pixels_HW)
    black_HW = np.zeros_like(image_HW)
    yield StrangeFile("jpeg_black", encode(".jpg", black_HW), None, black_HW)
    gray_HW = np.full_like(image_HW, 128)
    yield StrangeFile("jpeg_gray_like_missing", encode(".jpg", gray_HW), None, gray_HW)


def _damaged_jpegs() -> Iterator[StrangeFile]:
    jpeg = good_jpeg()
    frame = frame_at(jpeg)

    def patched(at: int, data: bytes) -> bytes:
        return jpeg[:at] + data + jpeg[at + len(data) :]

    yield StrangeFile("jpeg_no_height", patched(frame + 5, b"\0\0"), "undecodable")
    yield StrangeFile("jpeg_no_width", patched(frame + 7, b"\0\0"), "undecodable")
    yield StrangeFile("jpeg_no_channels", patched(frame + 9, b"\0"), "undecodable")
    yield StrangeFile("jpeg_200_channels", patched(frame + 9, b"\xc8"), "undecodable")
    yield StrangeFile("jpeg_12_bits", patched(frame + 4, b"\x0c"), "unsupported_format")
    tables = jpeg.index(b"\xff\xc4")
    yield StrangeFile("jpeg_huffman_of_ff", patched(tables + 5, b"\xff" * 16), "undecodable")
    yield StrangeFile("jpeg_huffman_of_zeros", patched(tables + 5, b"\0" * 16), "undecodable")
    no_tables = jpeg
    while b"\xff\xc4" in no_tables[: no_tables.index(b"\xff\xda")]:
        no_tables = without_segment(no_tables, b"\xff\xc4")
    yield StrangeFile("jpeg_no_quantisation", without_segment(jpeg, b"\xff\xdb"), "undecodable")
    # Since Motion JPEG leaves them out, libjpeg has the standard Huffman tables built in.
    yield StrangeFile("jpeg_no_huffman", no_tables, None)
    yield StrangeFile("jpeg_ends_before_frame", jpeg[:frame] + b"\xff\xd9", "undecodable")
    scan = jpeg.index(b"\xff\xda")
    yield StrangeFile("jpeg_ends_before_scan", jpeg[:scan] + b"\xff\xd9", "truncated")
    yield StrangeFile("jpeg_no_pixels", jpeg[: scan + 10] + b"\xff\xd9", "truncated")
    yield StrangeFile("jpeg_second_frame", jpeg[:scan] + jpeg[frame:], "undecodable")
    middle = (scan + len(jpeg)) // 2
    yield StrangeFile("jpeg_frame_among_pixels", patched(middle, b"\xff\xc0\0\x0b"), "undecodable")
    yield StrangeFile("jpeg_taller_in_header", patched(frame + 5, b"\0\xff"), "truncated")
    text = jpeg.replace(b"\n", b"\r\n").replace(b"\xff", b"\xef\xbf\xbd")
    yield StrangeFile("jpeg_as_text", text, "not_an_image")


def _strange_pngs() -> Iterator[StrangeFile]:
    image_HW = good_image()
    png = encode(".png", image_HW)
    yield StrangeFile("png", png, None, image_HW)
    yield StrangeFile("png_16_bits", encode(".png", image_HW.astype(np.uint16) << 8 | 77), None,
                      image_HW)  # fmt: skip
    yield StrangeFile("png_12_bits", encode(".png", image_HW.astype(np.uint16) << 4),
                      "unknown_bits")  # fmt: skip
    alpha_HW = np.zeros_like(image_HW)
    rgba = np.dstack([image_HW, image_HW, image_HW, alpha_HW])
    yield StrangeFile("png_rgba_transparent", encode(".png", rgba), None, image_HW)
    yield StrangeFile("png_rgb", encode(".png", rgba[..., :3]), None, image_HW)
    rgba16 = rgba.astype(np.uint16) << 8
    yield StrangeFile("png_rgba_16_bits", encode(".png", rgba16), None, image_HW)
    palette = png_chunk(b"PLTE", bytes(v for i in range(256) for v in (255 - i,) * 3))
    yield StrangeFile(
        "png_palette",
        png_of(WIDTH, HEIGHT, 8, 3, png_rows(image_HW), before=palette),
        None,
        255 - image_HW,
    )
    gray_alpha = np.dstack([image_HW, alpha_HW]).reshape(HEIGHT, -1)
    yield StrangeFile("png_gray_alpha", png_of(WIDTH, HEIGHT, 8, 4, png_rows(gray_alpha)), None,
                      image_HW)  # fmt: skip
    bits_HW = (image_HW > 128).astype(np.uint8)
    yield StrangeFile(
        "png_1_bit",
        png_of(WIDTH, HEIGHT, 1, 0, png_rows(np.packbits(bits_HW, axis=1))),
        None,
        bits_HW * 255,
    )
    yield StrangeFile("png_trailing_garbage", png + b"\xde\xad" * 500, None, image_HW)
    yield StrangeFile("png_with_large_text", png_of(WIDTH, HEIGHT, 8, 0, png_rows(image_HW),
                      before=png_chunk(b"tEXt", b"k\0" + b"v" * 300_000)), None,
                      image_HW)  # fmt: skip
    yield StrangeFile("png_no_width", png_of(0, HEIGHT, 8, 0, b""), "undecodable")
    yield StrangeFile("png_no_height", png_of(WIDTH, 0, 8, 0, b""), "undecodable")
    yield StrangeFile(
        "png_depth_of_7", png_of(WIDTH, HEIGHT, 7, 0, png_rows(image_HW)), "undecodable"
    )
    yield StrangeFile("png_colour_type_5", png_of(WIDTH, HEIGHT, 8, 5, png_rows(image_HW)),
                      "undecodable")  # fmt: skip
    damaged = bytearray(png)
    damaged[png.index(b"IDAT") + 40] ^= 0x10
    yield StrangeFile("png_changed_byte", bytes(damaged), "undecodable")
    yield StrangeFile(
        "png_pixels_no_zlib", png_of(WIDTH, HEIGHT, 8, 0, b"\x55" * 500), "undecodable"
    )
    no_palette = png_of(WIDTH, HEIGHT, 8, 3, png_rows(image_HW))
    yield StrangeFile("png_palette_missing", no_palette, "undecodable")


def _strange_bmps() -> Iterator[StrangeFile]:
    image_HW = good_image()
    bmp = encode(".bmp", image_HW)
    yield StrangeFile("bmp", bmp, None, image_HW)
    turned = bytearray(bmp)
    struct.pack_into("<i", turned, 22, -HEIGHT)
    yield StrangeFile("bmp_rows_from_the_top", bytes(turned), None, image_HW[::-1])
    colour = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2BGR)
    yield StrangeFile("bmp_colour", encode(".bmp", colour), None, image_HW)
    for name, at, value in [
        ("width_0", 18, 0),
        ("width_negative", 18, -WIDTH),
        ("height_0", 22, 0),
        ("compression_9", 30, 9),
    ]:
        patched = bytearray(bmp)
        struct.pack_into("<i", patched, at, value)
        yield StrangeFile(f"bmp_{name}", bytes(patched), "undecodable")
    header = bytearray(bmp)
    struct.pack_into("<I", header, 14, 77)
    yield StrangeFile("bmp_unknown_header", bytes(header), "not_an_image")


def _strange_tiffs() -> Iterator[StrangeFile]:
    image_HW = good_image()
    yield StrangeFile("tiff", encode(".tiff", image_HW), None, image_HW)
    yield StrangeFile("tiff_16_bits", encode(".tiff", image_HW.astype(np.uint16) << 8 | 77), None,
                      image_HW)  # fmt: skip
    pages = Tiff().add(image_HW).add(image_HW[::-1]).to_bytes()
    yield StrangeFile("tiff_of_two_pages", pages, "multiple_images")
    yield StrangeFile("tiff_big_endian", tiff_of(image_HW.tobytes(), order=">"), None, image_HW)
    yield StrangeFile(
        "tiff_rotated", tiff_of(image_HW.tobytes(), more=[(274, 3, 6)]), None, image_HW
    )
    holes = image_HW.astype(np.float32)
    holes[10:20] = np.nan
    yield StrangeFile("tiff_float_with_nan", encode(".tiff", holes), "unsupported_format")
    yield StrangeFile("tiff_64_bits", encode(".tiff", holes.astype(np.float64)),
                      "unsupported_format")  # fmt: skip
    yield StrangeFile("tiff_width_0", tiff_of(image_HW.tobytes(), width=0), "undecodable")
    yield StrangeFile("tiff_height_0", tiff_of(image_HW.tobytes(), height=0), "undecodable")
    yield StrangeFile("tiff_directory_far_away", b"II*\0\xff\xff\xff\x7f" + b"\0" * 99, "truncated")
    yield StrangeFile("tiff_compression_7777", tiff_of(image_HW.tobytes(), compression=7777),
                      "unsupported_format")  # fmt: skip
    for name, compression in {"lzw": 5, "deflate": 8, "packbits": 32773}.items():
        whole = encode(".tiff", image_HW, cv2.IMWRITE_TIFF_COMPRESSION, compression)
        yield StrangeFile(f"tiff_{name}", whole, None, image_HW)
        if name != "packbits":  # whose damage gives other pixels, and as many
            damaged = whole[:1000] + b"\x80" * 1000 + whole[2000:]
            yield StrangeFile(f"tiff_{name}_damaged", damaged, "undecodable")
    no_rows = tiff_of(image_HW.tobytes(), rows_per_strip=0)
    yield StrangeFile("tiff_strips_of_no_rows", no_rows, "undecodable")
    yield StrangeFile(
        "tiff_half_of_the_strips_rows",
        tiff_of(zlib.compress(image_HW[:32].tobytes()), compression=8),
        "undecodable",
    )
    padded_HW = np.zeros((96, 160), np.uint8)
    padded_HW[:HEIGHT] = image_HW
    yield StrangeFile("tiff_tile", tiff_of(padded_HW.tobytes(), tile=(160, 96)), None, image_HW)
    yield StrangeFile("tiff_tile_cut", tiff_of(image_HW.tobytes(), tile=(160, 96)), "truncated")
    yield StrangeFile("tiff_tile_of_no_width", tiff_of(image_HW.tobytes(), tile=(0, 96)),
                      "undecodable")  # fmt: skip
    large = tiff_of(image_HW.tobytes(), many_values=(700, 1, b"x" * 500_000))
    yield StrangeFile("tiff_with_large_xmp", large, None, image_HW)


def _strange_webps() -> Iterator[StrangeFile]:
    image_HW = good_image()
    webp = encode(".webp", image_HW)
    yield StrangeFile("webp_lossless", webp, None, image_HW)
    yield StrangeFile("webp", encode(".webp", image_HW, cv2.IMWRITE_WEBP_QUALITY, 90), None)
    rgba = np.dstack([image_HW, image_HW, image_HW, image_HW // 2])
    yield StrangeFile("webp_alpha", encode(".webp", rgba), None)
    yield StrangeFile("webp_trailing_garbage", webp + b"\0" * 99, None, image_HW)
    noise = riff_of(riff_chunk(b"VP8 ", b"\x55" * 200))
    yield StrangeFile("webp_noise", noise, "undecodable")
    yield StrangeFile(
        "webp_nothing_inside", riff_of(riff_chunk(b"ABCD", b"\0" * 200)), "undecodable"
    )


def _strange_pgms() -> Iterator[StrangeFile]:
    image_HW = good_image()
    head = b"P5\n# line 3\n160 64\n%d\n"
    yield StrangeFile("pgm", head % 255 + image_HW.tobytes(), None, image_HW)
    deep = (image_HW.astype(np.uint16) << 4).astype(">u2")
    yield StrangeFile("pgm_12_bits", head % 4095 + deep.tobytes(), None, image_HW)
    yield StrangeFile("pgm_12_bits_of_16", head % 65_535 + deep.tobytes(), "unknown_bits")
    yield StrangeFile("pgm_12_bits_of_10", head % 1023 + deep.tobytes(), "wrong_bits")
    yield StrangeFile("pgm_cut", head % 255 + image_HW.tobytes()[:-1], "truncated")
    yield StrangeFile("pgm_twice", (head % 255 + image_HW.tobytes()) * 2, "multiple_images")


def _wrong_sizes() -> Iterator[StrangeFile]:
    image_HW = good_image()
    yield StrangeFile("size_1_pixel_jpeg", encode(".jpg", image_HW[:1, :1]), "wrong_size")
    yield StrangeFile("size_1_pixel_png", encode(".png", image_HW[:1, :1]), "wrong_size")
    yield StrangeFile("size_1_row", encode(".jpg", image_HW[:1]), "wrong_size")
    yield StrangeFile("size_1_column", encode(".jpg", image_HW[:, :1]), "wrong_size")
    yield StrangeFile("size_one_less", encode(".jpg", image_HW[:-1]), "wrong_size")
    yield StrangeFile("size_turned", encode(".jpg", np.ascontiguousarray(image_HW.T)), "wrong_size")
    yield StrangeFile("size_doubled", encode(".jpg", cv2.resize(image_HW, None, fx=2, fy=2)),
                      "wrong_size")  # fmt: skip
    wide_HW = np.zeros((1, 65_500), np.uint8)
    yield StrangeFile("size_widest_jpeg", encode(".jpg", wide_HW), "wrong_size")
