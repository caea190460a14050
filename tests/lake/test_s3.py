"""What S3 stores and networks do wrong, and what a lake makes of it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import boto3
import pytest
from botocore.config import Config

from steel_batch.errors import LakeError, MissingObjectError, TransientLakeError
from steel_batch.lake import Lake, ReadRequest
from tests.fault_proxy import CHANGED_BYTE, PASSING, FaultProxy, Faults
from tests.lake.s3_lakes import MIB, contents, hasty_retry, parted

pytestmark = pytest.mark.s3


@pytest.mark.parametrize(("num_bytes", "num_requests"), [(0, 2), (5, 1), (100_000, 3)])
def test_opening_an_object_reads_its_last_bytes_and_so_all_of_a_small_one(
    num_bytes: int, num_requests: int, direct: Lake
) -> None:
    data = random.Random(5).randbytes(num_bytes)
    direct.write("k", data)
    before = direct.counts()["requests"]
    with direct.open_input("k") as stream:
        stream.seek(-min(num_bytes, 1_000), 2)
        assert stream.read() == data[-1_000:]
        stream.seek(0)
        assert stream.read(10) == data[:10]
        stream.seek(num_bytes // 3)
        assert stream.read() == data[num_bytes // 3 :]
    # some servers refuse a range of an empty object, and then are asked for its size
    assert direct.counts()["requests"] - before <= num_requests


def test_a_small_object_that_arrives_damaged_is_read_again_when_it_is_opened(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    direct.write("k", b"0123456789")
    proxy.set(Faults(share=0.5, kinds=(CHANGED_BYTE, "short_body"), only="GET .*/k"))
    for _ in range(12):
        with faulty.open_input("k") as stream:
            assert stream.read() == b"0123456789"
    assert min(proxy.counts()[kind] for kind in (CHANGED_BYTE, "short_body")) > 0
    with pytest.raises(MissingObjectError):
        faulty.open_input("none")


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.quick("reset_after", "short_body")
def test_with_a_fifth_of_the_requests_failing_every_operation_ends_as_without_a_fault(
    kind: str, direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=0.2, kinds=(kind,), delay_seconds=12.0))
    large = bytes(range(256)) * (8 * MIB // 256)
    rounds = range(1 if kind == "delay" else 6)
    for i in rounds:
        data = f"{i}".encode() * 5_001
        faulty.write(f"a/{i}", data)
        assert faulty.read(f"a/{i}") == data
        assert faulty.read(f"a/{i}", offset=7, length=3_000) == data[7:3_007]
        assert faulty.put_if_absent(f"once/{i}", b"first")
        assert not faulty.put_if_absent(f"once/{i}", b"second")
        assert faulty.stat(f"none/{i}") is None
        faulty.copy(f"a/{i}", f"copied/{i}")
        faulty.write(f"gone/{i}", b"x")
        faulty.delete([f"gone/{i}", "gone/never"])
        with faulty.open_input(f"a/{i}") as stream:
            stream.seek(-10, 2)
            assert stream.read() == data[-10:]
        assert {item.key for item in faulty.list_objects("gone/")} == set()
        assert sorted(faulty.list_dirs()) == ["a/", "copied/", "once/"]
    with parted(faulty).open_output("large") as stream:
        stream.write(large)
    parted(faulty).copy("large", "large_copy")
    assert proxy.counts()[kind] > (2 if kind == "delay" else 10)
    expected = {f"once/{i}": b"first" for i in rounds}
    expected |= {f"{to}/{i}": f"{i}".encode() * 5_001 for i in rounds for to in ("a", "copied")}
    assert contents(direct) == {**expected, "large": large, "large_copy": large}


def test_what_the_store_does_not_copy_in_one_request_is_copied_in_parts(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    large = random.Random(6).randbytes(12 * MIB)
    direct.write("large", large)
    direct.write("small", b"small")
    proxy.set(Faults(share=1.0, kinds=("copy_too_large",), only=r"PUT [^?]*/copied-\w+$"))
    parted(faulty).copy("large", "copied-large")
    assert direct.read("copied-large") == large
    with pytest.raises(LakeError, match="larger than allowed"):
        parted(faulty).copy("small", "copied-small")


def test_a_copy_is_one_request(direct: Lake) -> None:
    direct.write("small", b"small")
    before = direct.counts()["requests"]
    direct.copy("small", "copied")
    assert direct.counts()["requests"] - before == 1
    with pytest.raises(MissingObjectError, match="none is not there"):
        direct.copy("none", "copied")


def test_an_object_that_is_never_sent_whole_is_never_taken_for_it(
    direct: Lake, proxy: FaultProxy
) -> None:
    direct.write("k", b"0123456789" * 100)
    proxy.set(Faults(share=1.0, kinds=("short_body",), only="GET .*/k"))
    hasty = Lake(direct.url, endpoint_url=proxy.url, retry=hasty_retry(0.5))
    with pytest.raises(TransientLakeError):
        hasty.read("k")
    with pytest.raises(TransientLakeError):
        hasty.read("k", offset=100, length=300)
    assert proxy.counts()["short_body"] > 2, "of two reads, one at least was tried again"


@pytest.mark.parametrize(
    ("checksum", "kinds"),
    [
        # Older clients do not ask for the CRC32, and the etag is enough.
        ("when_supported", {"retries_FlexibleChecksumError", "retries_bad_answer"}),
        ("when_required", {"retries_bad_answer"}),
    ],
    ids=["CRC32 of a writer of today", "MD5 for an etag"],
)
def test_a_byte_that_was_changed_on_the_way_is_noticed_and_read_again(
    checksum: str, kinds: set[str], bucket: str, s3_endpoint: str, faulty: Lake, proxy: FaultProxy
) -> None:
    data = bytes(range(256)) * 40
    s3 = boto3.client(
        "s3", endpoint_url=s3_endpoint, config=Config(request_checksum_calculation=checksum)
    )
    for i in range(20):
        s3.put_object(Bucket=bucket[5:], Key=f"lake/k{i}", Body=data)
    proxy.set(Faults(share=0.5, kinds=(CHANGED_BYTE,), only="GET .*/k"))
    assert faulty.read_many([ReadRequest(key=f"k{i}") for i in range(20)]) == [data] * 20
    num_changed = proxy.counts()[CHANGED_BYTE]
    assert num_changed > 3
    counts = faulty.counts()
    assert counts["retries"] == sum(counts.get(kind, 0) for kind in kinds) == num_changed


def test_of_writers_whose_answers_are_lost_exactly_one_wins(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=0.5, kinds=("reset_after",), only="PUT "))
    for i in range(5):
        won: list[int] = []

        def put(writer: int, key: str = f"once/{i}", won: list[int] = won) -> None:
            if faulty.put_if_absent(key, f"{writer}".encode()):
                won.append(writer)

        threads = [threading.Thread(target=put, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [direct.read(f"once/{i}")] == [f"{writer}".encode() for writer in won]
    assert proxy.counts()["reset_after"] > 5


def test_deletions_carry_both_checksums_for_stores_that_know_one_of_them(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    for i in range(3):
        direct.write(f"gone/{i}", b"x")
    proxy.set(Faults(wants_md5=True))
    faulty.delete(f"gone/{i}" for i in range(3))
    assert contents(direct) == {}


WRITES = """
import sys
from steel_batch.lake import Lake

url, endpoint_url = sys.argv[1:]
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
for prefix in "ab":
    opened.clear()
    Lake(f"{url}/{prefix}", endpoint_url=endpoint_url).write("x", b"1")
    print(sum("botocore/data/s3/" in name for name in opened))
"""


def test_botocores_description_of_s3_is_read_once_per_process(
    bucket: str, s3_endpoint: str
) -> None:
    """In a process of its own: others on this machine, and tests before this one, read it too."""
    done = subprocess.run(
        [sys.executable, "-c", WRITES, bucket, s3_endpoint], check=True, capture_output=True
    )
    first, second = map(int, done.stdout.split())
    assert first > 0
    assert second == 0
