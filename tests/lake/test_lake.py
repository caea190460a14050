"""One suite of claims over every kind of lake."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from pathlib import Path

import boto3
import pytest

from steel_batch.errors import ChangedObjectError, ConfigError, LakeError, MissingObjectError
from steel_batch.lake import Lake, ReadRequest, series
from steel_batch.lake.lake import check_store
from tests.s3_server import SMALL_PAGE, SMALL_PAGES


def keys(lake: Lake, prefix: str = "") -> list[str]:
    return sorted(item.key for item in lake.list_objects(prefix))


def test_what_is_written_is_read_whole_and_in_parts(lake: Lake) -> None:
    lake.write("a/b.bin", b"0123456789")
    assert lake.read("a/b.bin") == b"0123456789"
    assert lake.read("a/b.bin", offset=3) == b"3456789"
    assert lake.read("a/b.bin", offset=3, length=4) == b"3456"
    assert lake.read("a/b.bin", offset=3, length=0) == b""


def test_a_write_replaces(lake: Lake) -> None:
    lake.write("k", b"one")
    lake.write("k", b"two")
    assert lake.read("k") == b"two"


def test_reading_what_is_not_there_says_so(lake: Lake) -> None:
    with pytest.raises(MissingObjectError, match="nowhere/x"):
        lake.read("nowhere/x")
    assert lake.stat("nowhere/x") is None


def test_reading_with_an_old_etag_says_that_the_object_changed(lake: Lake) -> None:
    lake.write("k", b"one")
    planned = lake.stat("k")
    assert planned is not None
    assert lake.read("k", etag=planned.etag) == b"one"
    lake.write("k", b"other")
    with pytest.raises(ChangedObjectError):
        lake.read("k", etag=planned.etag)


def test_of_many_reads_each_failure_stands_in_its_place(lake: Lake) -> None:
    for i in range(40):
        lake.write(f"n/{i}", str(i).encode())
    wanted = [ReadRequest(key=f"n/{i}") for i in range(42)]
    results = lake.read_many(wanted)
    assert results[:40] == [str(i).encode() for i in range(40)]
    assert [type(r) for r in results[40:]] == [MissingObjectError, MissingObjectError]


def test_a_listing_after_a_key_leaves_out_those_before(lake: Lake) -> None:
    """Byte by byte, so ``d-`` comes before what the folder ``d`` has, and ``d0`` after it."""
    written = ["p/a", "p/d-", "p/d-/x", "p/d/x", "p/d/y/z", "p/d.json", "p/d0", "p/e\u00e4", "q/a"]
    for key in written:
        if not any(other.startswith(f"{key}/") for other in written):
            lake.write(key, b"x")
    there = [key for key in keys(lake) if key.startswith("p/")]
    for after in ["", "p", "p/", *written, "p/d", "p/d/", "p/d/y", "p/z"]:
        found = sorted(item.key for item in lake.list_after("p/", after))
        assert found == [key for key in there if key > after], after


def test_listing_knows_prefixes_sizes_and_etags(lake: Lake) -> None:
    for key in ("line=1/a.jpg", "line=1/sub/b.jpg", "line=12/c.jpg", "other/d.jpg"):
        lake.write(key, b"xyz")
    assert keys(lake) == ["line=1/a.jpg", "line=1/sub/b.jpg", "line=12/c.jpg", "other/d.jpg"]
    assert keys(lake, "line=1") == ["line=1/a.jpg", "line=1/sub/b.jpg", "line=12/c.jpg"]
    assert keys(lake, "line=1/") == ["line=1/a.jpg", "line=1/sub/b.jpg"]
    assert keys(lake, "missing/") == []
    assert sorted(lake.list_dirs()) == ["line=1/", "line=12/", "other/"]
    assert sorted(lake.list_dirs("line=")) == ["line=1/", "line=12/"]
    assert list(lake.list_dirs("line=1/")) == ["line=1/sub/"]
    (item,) = lake.list_objects("other/")
    assert item == lake.stat("other/d.jpg")
    assert item.size_bytes == 3


@pytest.mark.s3
def test_a_listing_goes_over_many_pages(s3_endpoint: str) -> None:
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=SMALL_PAGES)
    lake = Lake(f"s3://{SMALL_PAGES}/some/prefix", endpoint_url=s3_endpoint)
    for i in range(2 * SMALL_PAGE + 5):
        lake.write(f"p/{i:05d}", b"")
    before = lake.counts()["requests"]
    assert keys(lake, "p/") == [f"p/{i:05d}" for i in range(2 * SMALL_PAGE + 5)]
    assert lake.counts()["requests"] - before == 3, "a request per page"


def test_of_sixteen_puts_one_wins(lake: Lake) -> None:
    won: list[int] = []

    def put(i: int) -> None:
        if lake.put_if_absent("once", f"writer {i}".encode()):
            won.append(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lake.read("once") == f"writer {won[0]}".encode()


def test_a_series_has_one_winner_per_number_and_its_last_entry_is_the_truth(lake: Lake) -> None:
    assert series.latest(lake, "s") is None
    assert series.put_next(lake, "s", 1, b"first")
    assert not series.put_next(lake, "s", 1, b"late")
    assert series.put_next(lake, "s", 2, b"second")
    assert series.latest(lake, "s") == (2, b"second")
    newest = series.newest(lake, "s")
    assert newest is not None
    assert newest.older == (1,)
    series.prune(lake, "s", newest.older)
    assert list(series.history(lake, "s")) == [(2, b"second")]


def test_an_entry_that_is_known_is_read_again_only_if_it_was_replaced(lake: Lake) -> None:
    assert series.put_next(lake, "s", 1, b"mine")
    mine = series.newest(lake, "s", series.Newest(number=1, data=b"mine"))
    assert mine is not None
    assert (mine.number, mine.data) == (1, b"mine")
    again = series.newest(lake, "s", dataclasses.replace(mine, data=b"remembered"))
    assert again is not None
    assert again.data == b"remembered", "its etag is the same, so it was not read"
    lake.write("s/00000001.json", b"of another writer")
    for known in (mine, series.Newest(number=1, data=b"mine")):
        found = series.newest(lake, "s", known)
        assert found is not None
        assert found.data == b"of another writer"


def test_deleting_what_is_missing_is_fine(lake: Lake) -> None:
    lake.write("k", b"x")
    lake.delete(["k", "never/there"])
    assert keys(lake) == []


def test_a_copy_is_whole_and_replaces(lake: Lake) -> None:
    lake.write("from", b"content")
    lake.write("to/here", b"older")
    lake.copy("from", "to/here")
    lake.copy("from", "to/here")
    assert lake.read("to/here") == b"content"
    with pytest.raises(MissingObjectError):
        lake.copy("nothing", "to/there")


def test_an_output_that_fails_leaves_nothing(lake: Lake) -> None:
    def fail() -> None:
        with lake.open_output("big") as stream:
            stream.write(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert keys(lake) == []
    with lake.open_output("big") as stream:
        stream.write(b"who")
        stream.write(b"le")
    assert lake.read("big") == b"whole"


def test_a_large_output_goes_in_parts(lake: Lake) -> None:
    block = bytes(range(256)) * 4096
    with lake.open_output("big") as stream:
        for _ in range(40):
            stream.write(block)
    with lake.open_input("big") as stream:
        stream.seek(-len(block), 2)
        assert stream.read() == block
        stream.seek(0)
        assert stream.read(3) == b"\x00\x01\x02"
    found = lake.stat("big")
    assert found is not None
    assert found.size_bytes == 40 << 20


@pytest.mark.parametrize(
    "key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a\\b", "a\0b", "."]
)
def test_a_key_that_would_leave_the_lake_is_refused(lake: Lake, key: str) -> None:
    with pytest.raises(LakeError, match="refused"):
        lake.write(key, b"x")
    with pytest.raises(LakeError, match="refused"):
        lake.read(key)


def test_a_lake_travels_to_other_processes(lake: Lake) -> None:
    lake.write("k", b"x")
    again = pickle.loads(pickle.dumps(lake))  # noqa: S301 - our own object, as Ray ships it
    assert again.read("k") == b"x"


def test_a_missing_bucket_is_named(s3_endpoint: str) -> None:
    lake = Lake("s3://no-such-bucket-here/x", endpoint_url=s3_endpoint)
    with pytest.raises(LakeError, match="no-such-bucket-here/x/: there is no such bucket"):
        list(lake.list_objects())


def test_other_kinds_of_urls_are_refused() -> None:
    with pytest.raises(ConfigError, match="gs://"):
        Lake("gs://bucket/x")
    with pytest.raises(ConfigError, match="names no bucket"):
        Lake("s3://")
    with pytest.raises(ConfigError, match="lacks '//' after ':'"):
        Lake("s3:/bucket/x")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("/data/a%20b", "%20"), ("/data/a\\b", r"\\\\"), ("s3://lake/o%77n", "%77"),
        ("s3://lake/team#1", "#"), ("s3://lake/x?", r"\?"), ("s3://lake/a/../b", r"\.\."),
        ("s3://lake/./b", r"\."), ("s3://lake/a//b", "//"), ("s3://lake/a\tb", r"\\t"),
    ],
)  # fmt: skip
def test_a_store_whose_tables_lie_elsewhere_for_delta_is_refused(url: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"contains '{named}': libraries for Delta tables"):
        check_store(url)


@pytest.mark.parametrize(
    "url", ["/data/a b", "/data/100%", "/data/é#1?", "../x", "s3://lake", "s3://lake/a b/.c/é%"]
)
def test_a_store_may_have_any_other_name(url: str) -> None:
    assert check_store(url) == url


@pytest.mark.parametrize("url", ["", " ", "\t", " lake", "lake\n"])
def test_no_place_is_not_the_current_folder(url: str) -> None:
    with pytest.raises(ConfigError, match=r"names no place|has white space around it"):
        Lake(url)


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LakeError, match="is a file"):
        Lake(str(tmp_path / "file" / "store")).write("k", b"x")
