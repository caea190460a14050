"""Tars as other tools write them: joined, sparse, linked, incremental, with parts of samples."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, pack
from tests.conftest import KINDS_OF_LAKE, folder_daily
from tests.sources.made_up_sources import Members, images_of, read, source_of, tar_of

lake = folder_daily

IS_GNU = "GNU tar" in subprocess.run(
    ["tar", "--version"], capture_output=True, text=True, check=False
).stdout  # fmt: skip
gnu_tar = pytest.mark.skipif(not IS_GNU, reason="`tar` is not GNU's")


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def written(folder: Path, *command: str) -> bytes:
    """What a tool puts into s.tar."""
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return (folder / "s.tar").read_bytes()


@pytest.mark.parametrize("padding", [0, 512, 10240, 3 << 20])
def test_tars_that_were_joined_are_read_to_the_last(
    lake: Lake, tmp_path: Path, padding: int
) -> None:
    tars = [tar_of([(f"{i}.jpg", b"%d" % i * 700), (f"{i}.txt", b"t")]) for i in range(3)]
    shortest = tars[0][: 2 * (512 + 1024) - 512 + 1024]  # without what fills its record up
    lake.write("s.tar", bytes(padding).join([shortest, *tars[1:]]))
    source = source_of(lake, "*.tar")
    _, found = read(source, tmp_path)
    assert found == {f"s.tar#{i}.jpg": b"%d" % i * 700 for i in range(3)}
    selection = source.select(None)
    assert len(list(selection)) == 3
    assert selection.num_left_out == 3


def test_what_fills_the_last_record_up_is_no_member_but_more_is_an_error(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    whole = tar_of([("a.jpg", b"a" * 700)])
    end = 512 + 1024 + 1024
    lake.write("s.tar", whole[:end] + b"left in memory" * 500 + bytes(512))
    assert len(images_of(lake, "*.tar")) == 1
    second = tar_of([("b.jpg", b"b" * 7000), ("c.jpg", b"c" * 7000)])
    damaged = second[:148] + b"!" + second[149:]
    small = tar_of([("b.jpg", b"b")])
    for tar in (whole + damaged, whole[: end + 512] + small[:148] + b"!" + small[149:3000]):
        lake.write("s.tar", tar)
        with pytest.raises(ConfigError, match=r"damaged after its first 1 members .*is not a tar"):
            images_of(lake, "*.tar")
    lake.write("s.tar", whole + second[:9000])
    with pytest.raises(ConfigError, match=r"is damaged after its first \d members"):
        images_of(lake, "*.tar")


PARTS = {0: b"\xff\xd8begin", 40_000: b"middle" * 3000, 199_990: b"the end..."}
SPARSE = bytearray(200_000)
for place, part in PARTS.items():
    SPARSE[place : place + len(part)] = part


def posix_sparse(name: str) -> tuple[tarfile.TarInfo, bytes]:
    """A sparse member as bsdtar writes it: the map stands before the parts."""
    info = tarfile.TarInfo(f"GNUSparseFile.0/{name}")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(len(SPARSE)),
    }  # fmt: skip
    numbers = [len(PARTS), *(n for place, part in PARTS.items() for n in (place, len(part)))]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return info, text + bytes(-len(text) % 512) + b"".join(PARTS.values())


@pytest.mark.parametrize(
    "options",
    [
        None,
        *(pytest.param(o, marks=gnu_tar) for o in (
            ["--format=gnu"], ["--format=posix"], ["--format=posix", "--sparse-version=0.1"],
            ["--format=posix", "--sparse-version=0.0"],
        )),
        pytest.param(["bsdtar"], marks=pytest.mark.skipif(
            shutil.which("bsdtar") is None, reason="there is no bsdtar")),
    ],
    ids=str,
)  # fmt: skip
def test_sparse_members_are_read_with_their_holes(
    lake: Lake, tmp_path: Path, options: list[str] | None
) -> None:
    files = {"sparse.jpg": bytes(SPARSE), "holes.jpg": bytes(70_000), "a.jpg": b"a"}
    many = bytearray(2_000_000)
    for start in range(0, 2_000_000, 40_000):
        many[start : start + 5] = b"%05d" % (start // 1000)
    files["many.jpg"] = bytes(many)
    if options is None:
        files = {"sparse.jpg": bytes(SPARSE), "a.jpg": b"a"}
        data = tar_of([posix_sparse("sparse.jpg"), ("a.jpg", b"a")], tarfile.PAX_FORMAT)
    else:
        for name, content in files.items():
            with (tmp_path / name).open("wb") as file:
                for start in range(0, len(content), 4096):
                    if any(content[start : start + 4096]):
                        os.pwrite(file.fileno(), content[start : start + 4096], start)
                file.truncate(len(content))
        command = ["bsdtar"] if options == ["bsdtar"] else ["tar", "-S", "--hole-detection=raw"]
        command += [] if options == ["bsdtar"] else options
        data = written(tmp_path, *command, "-cf", "s.tar", *files)
        assert len(data) < 1_000_000
    lake.write("x/s.tar", data)
    source = source_of(lake, "x/*.tar")
    images = {ref.image_key: ref.bytes for ref in source.select(None)}
    assert images == {f"x/s.tar#{name}": len(content) for name, content in files.items()}
    (tmp_path / "read").mkdir()
    _, found = read(source, tmp_path / "read")
    assert found == {f"x/s.tar#{name}": content for name, content in files.items()}
    out = Lake(str(tmp_path / "out"))
    packed = pack(
        PackConfig(images=lake.url, key_pattern="x/*.tar", out=out.url,
                   endpoint_url=lake.endpoint_url, format="parquet"),
        lambda _: None,
    )  # fmt: skip
    assert packed.num_images == len(files)


def test_a_sparse_member_that_is_damaged_or_replaced_costs_only_itself(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    huge = posix_sparse("huge.jpg")
    huge[0].pax_headers = {**huge[0].pax_headers, "GNU.sparse.realsize": str(1 << 40)}
    members: Members = [posix_sparse("sparse.jpg"), huge, ("a.jpg", b"a")]
    lake.write("s.tar", tar_of(members, tarfile.PAX_FORMAT))
    _, found = read(source_of(lake, "*.tar"), tmp_path)
    assert found == {
        "s.tar#sparse.jpg": bytes(SPARSE), "s.tar#huge.jpg": "too_large", "s.tar#a.jpg": b"a",
    }  # fmt: skip
    text = posix_sparse("sparse.jpg")[1].replace(b"199990\n10\n", b"199999\n10\n")
    lake.write("s.tar", tar_of([(posix_sparse("sparse.jpg")[0], text)], tarfile.PAX_FORMAT))
    with pytest.raises(ConfigError, match="parts that do not fit its size"):
        images_of(lake, "*.tar")


@pytest.mark.parametrize("lake", KINDS_OF_LAKE, indirect=True)
def test_links_to_members_are_read_as_what_they_name(lake: Lake, tmp_path: Path) -> None:
    members: Members = [
        link("early.jpg", "d/a.bin"),
        ("./d/a.bin", b"content"),
        link("hard.jpg", "./d/a.bin"),
        link("d/again.jpg", "hard.jpg"),
        link("d/soft.jpg", "a.bin", tarfile.SYMTYPE),
        link("d/up.jpg", "../hard.jpg", tarfile.SYMTYPE),
        link("out.jpg", "../../etc/hostname.jpg", tarfile.SYMTYPE),
        link("none.jpg", "nothing.jpg"),
        link("circle.jpg", "circle.jpg", tarfile.SYMTYPE),
    ]
    lake.write("s.tar", tar_of(members))
    _, found = read(source_of(lake, "*.tar"), tmp_path)
    names = ("early.jpg", "hard.jpg", "d/again.jpg", "d/soft.jpg", "d/up.jpg")
    assert found == {f"s.tar#{name}": b"content" for name in names} | {
        f"s.tar#{name}": "not_a_file" for name in ("out.jpg", "none.jpg", "circle.jpg")
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(tar_of([("a.jpg", b"a")]), mtime=0), "compressed with gzip"),
        (bz2.compress(tar_of([("a.jpg", b"a")])), "compressed with bzip2"),
        (lzma.compress(tar_of([("a.jpg", b"a")])), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "compressed with zstd"),
        (b"PK\x03\x04" + bytes(99), "a ZIP archive"),
        (b"PAR1" + bytes(99), "a Parquet file"),
    ],
)
def test_what_is_called_a_tar_and_is_none_is_named(lake: Lake, data: bytes, said: str) -> None:
    lake.write("s.tar", data)
    with pytest.raises(ConfigError, match=rf"s\.tar is {said}.*Unpack it"):
        images_of(lake, "*.tar")


def in_incremental_form(data: bytes) -> bytes:
    """A tar with times where POSIX keeps the beginning of a name, as `tar -g` writes them."""
    header = bytearray(data[:512])
    header[257:265] = b"ustar  \0"
    header[345:369] = b"15302657766\0" * 2
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


def test_times_of_an_incremental_backup_are_no_part_of_a_key(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("s.tar", in_incremental_form(tar_of([("d/a.jpg", b"a"), ("b.jpg", b"b")])))
    assert set(images_of(lake, "*.tar")) == {"s.tar#d/a.jpg", "s.tar#b.jpg"}
    long_name = "15302657766/" + "long/" * 20 + "a.jpg"  # a beginning in POSIX's own place
    lake.write("s.tar", tar_of([(long_name, b"a")], tarfile.USTAR_FORMAT))
    assert set(images_of(lake, "*.tar")) == {f"s.tar#{long_name}"}


@gnu_tar
def test_incremental_backups_give_the_same_keys_each_time(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")
    for state in ("first", "second"):
        written(tmp_path, "tar", f"--listed-incremental={state}", "-cf", "s.tar", "d", "b.jpg")
        assert set(images_of(lake, "*.tar")) == {"s.tar#d/a.jpg", "s.tar#b.jpg"}
        os.utime(tmp_path / "b.jpg", (1e9, 1e9))


@pytest.mark.parametrize("pattern", ["*.tar", "*.tar#{image_id}.jpg"])
def test_parts_of_a_sample_are_no_images_beside_it(lake: Lake, pattern: str) -> None:
    names = ["x.seg.jpg", "x.jpg", "x.cls", "y.mask.v2.jpg", "y.JPG", "y.jpg", "alone.seg.jpg",
             "n.0001.jpg", "n.jpg", "2026.11.05.jpg"]  # fmt: skip
    lake.write("s.tar", tar_of([(name, name.encode()) for name in names]))
    selection = source_of(lake, pattern).select(None)
    ids = sorted(ref.image_id for ref in selection if not ref.image_key.endswith("JPG"))
    assert ids == sorted(["x", "y", "alone.seg", "n.0001", "n", "2026.11.05"])
    assert selection.num_left_out == 3 + (pattern != "*.tar")
    asked = images_of(lake, "*.tar#{image_id}.seg.jpg")
    assert {ref.image_id for ref in asked.values()} == {"x", "alone"}


def test_packed_images_are_all_found_again_whatever_their_names(tmp_path: Path) -> None:
    loose, out = Lake(str(tmp_path / "loose")), Lake(str(tmp_path / "out"))
    for name in ("x.jpg", "x.seg.jpg"):
        loose.write(name, name.encode())
    result = pack(PackConfig(images=loose.url, out=out.url), lambda _: None)
    assert len(images_of(out, result.key_pattern)) == 2


def test_a_second_copy_of_a_member_is_no_second_image_and_another_is_an_error(
    lake: Lake, tmp_path: Path
) -> None:
    first = tar_of([("a.jpg", b"same" * 300), ("b.jpg", b"b")])
    lake.write("s.tar", first + tar_of([("./a.jpg", b"same" * 300), ("c.jpg", b"c")]))
    _, found = read(source_of(lake, "*.tar"), tmp_path)
    assert set(found) == {"s.tar#a.jpg", "s.tar#b.jpg", "s.tar#c.jpg"}
    lake.write("s.tar", first + tar_of([("a.jpg", b"else" * 300)]))
    with pytest.raises(ConfigError, match=r"two members named 'a\.jpg'.*joined"):
        images_of(lake, "*.tar")


def test_keys_of_members_stay_as_they_were(tmp_path: Path) -> None:
    """A row is known by its image's key: another spelling would be another image."""
    lake = Lake(str(tmp_path))
    keys = {
        "a.jpg": "a.jpg", "./b.jpg": "b.jpg", "././c.jpg": "c.jpg", "d//e.jpg": "d//e.jpg",
        "f/./g.jpg": "f/./g.jpg", "h\\i.jpg": "h\\i.jpg", " j .jpg": " j .jpg",
        "k#l.jpg": "k#l.jpg", "m.n.jpg": "m.n.jpg", "größe.jpg": "größe.jpg",
        "o\udcf6.jpg": "o\\xf6.jpg", "p" * 150 + ".jpg": "p" * 150 + ".jpg",
    }  # fmt: skip
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name in keys:
            tar.addfile(tarfile.TarInfo(name))
    lake.write("s.tar", buffer.getvalue())
    assert set(images_of(lake, "*.tar")) == {f"s.tar#{key}" for key in keys.values()}
