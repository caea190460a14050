"""What S3 stores and networks do wrong, and what a lake makes of it."""

from __future__ import annotations

import dataclasses
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from steel_batch.errors import LakeError, MissingObjectError, TransientLakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.retry import Retry
from steel_batch.lake.s3 import Bucket
from steel_batch.lake.s3_client import READS_AT_ONCE
from tests.conftest import use_test_credentials
from tests.fault_proxy import CHANGED_BYTE, PASSING, FaultProxy, Faults

pytestmark = pytest.mark.s3

RETRY = Retry(base_seconds=0.01, max_seconds=0.1, total_seconds=60.0, answer_seconds=10.0)
MIB = 1 << 20


@pytest.fixture(scope="module")
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def direct(bucket: str, s3_endpoint: str) -> Lake:
    """The lake behind no proxy."""
    return Lake(f"{bucket}/lake", endpoint_url=s3_endpoint)


@pytest.fixture
def faulty(direct: Lake, proxy: FaultProxy) -> Lake:
    """The same one behind a proxy that does nothing yet."""
    proxy.set(Faults())
    return Lake(direct.url, endpoint_url=proxy.url, retry=RETRY)


def parted(lake: Lake) -> Bucket:
    """The same lake, that uploads and copies in parts of the least size that S3 takes."""
    return Bucket(lake.url, lake.endpoint_url, lake.retry, part_bytes=5 * MIB, copy_bytes=5 * MIB)


def hasty_retry(total_seconds: float) -> Retry:
    """Gives up after so long."""
    return dataclasses.replace(RETRY, total_seconds=total_seconds)


def contents(lake: Lake) -> dict[str, bytes]:
    return {item.key: lake.read(item.key) for item in lake.list_objects()}


# --- what may pass --------------------------------------------------------------------------


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


def test_an_upload_whose_completion_is_never_answered_is_known_by_its_mark(
    direct: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=1.0, kinds=("reset_after",), only="POST .*uploadId="))
    hasty = Lake(direct.url, endpoint_url=proxy.url, retry=hasty_retry(1.0))
    data = bytes(6 * MIB)
    with parted(hasty).open_output("large") as stream:
        stream.write(data)
    assert direct.read("large") == data


def test_an_upload_that_fails_leaves_neither_an_object_nor_parts(
    direct: Lake, bucket: str, s3_endpoint: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)

    def fail() -> None:
        with parted(direct).open_output("large") as stream:
            stream.write(bytes(6 * MIB))
            assert len(s3.list_multipart_uploads(Bucket=bucket[5:])["Uploads"]) == 1
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket[5:])
    assert contents(direct) == {}


# --- slow down ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_that_is_slow_is_asked_fewer_things_at_once_and_then_more_again(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    wanted = [ReadRequest(key=f"k{i:03}") for i in range(90)]
    for request in wanted:
        direct.write(request.key, request.key.encode())
    expected = [request.key.encode() for request in wanted]
    assert faulty.read_many(wanted) == expected
    assert faulty.counts()["reads_at_once"] == READS_AT_ONCE

    # More than six at once are refused: what is asked for settles around that.
    proxy.set(Faults(slow_above=6, work_seconds=0.15, only="GET "))
    assert faulty.read_many(wanted * 2) == expected * 2
    hit = proxy.counts()
    assert hit["slow_down"] == faulty.counts()["retries_SlowDown"] > 10
    assert faulty.counts()["reads_at_once"] <= 12
    proxy.set(Faults(slow_above=6, work_seconds=0.15, only="GET "))
    assert faulty.read_many(wanted) == expected
    assert proxy.counts()["most_at_once"] < 20

    proxy.set(Faults())
    for _ in range(30):
        assert faulty.read_many(wanted) == expected
    assert faulty.counts()["reads_at_once"] == READS_AT_ONCE


def test_a_store_that_stays_slow_is_given_up_after_the_limit(
    direct: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=1.0, kinds=("slow_down",)))
    hasty = Lake(direct.url, endpoint_url=proxy.url, retry=hasty_retry(3.0))
    started = time.monotonic()
    with pytest.raises(TransientLakeError, match=r"/k: the store answers SlowDown \(Please"):
        hasty.read("k")
    assert 3.0 <= time.monotonic() - started < 30.0
    assert 0 < hasty.counts()["retries_SlowDown"] < proxy.counts()["slow_down"]


# --- what does not pass ---------------------------------------------------------------------


def test_a_denial_is_asked_five_times_and_named(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    proxy.set(Faults(share=1.0, kinds=("access_denied",)))
    with pytest.raises(
        LakeError, match=r"answers AccessDenied.*these credentials lack the permission"
    ) as no:
        faulty.read("k")
    assert not isinstance(no.value, TransientLakeError)
    assert proxy.counts()["access_denied"] == RETRY.max_refusals
    with pytest.raises(LakeError, match="these credentials lack the permission"):
        faulty.stat("k")  # a HEAD's answer has no words


@pytest.mark.parametrize("operation", ["read", "open_input", "copy"])
def test_what_is_not_there_is_asked_for_once(
    operation: str, faulty: Lake, proxy: FaultProxy
) -> None:
    faulty.write("warm", b"up")
    proxy.set(Faults())
    with pytest.raises(MissingObjectError, match="/none is not there"):
        getattr(faulty, operation)("none", *(["to"] if operation == "copy" else []))
    assert proxy.counts()["requests"] == 1


def test_a_wrong_address_is_noticed_sooner_than_a_store_that_went_away(
    bucket: str, s3_endpoint: str
) -> None:
    patient = dataclasses.replace(hasty_retry(60.0), unreachable_seconds=0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(TransientLakeError, match=r"Nothing answers there.*--endpoint-url"):
        Lake(f"{bucket}/x", endpoint_url=nowhere, retry=patient).read("k")
    assert time.monotonic() - started < 30.0
    hasty = dataclasses.replace(patient, total_seconds=2.0)
    with FaultProxy(s3_endpoint) as going:
        lake = Lake(f"{bucket}/x", endpoint_url=going.url, retry=hasty)
        lake.write("k", b"x")
    started = time.monotonic()
    with pytest.raises(TransientLakeError):
        lake.read("k")
    assert time.monotonic() - started >= 2.0


def test_a_store_that_never_answers_an_upload_is_not_waited_for_without_end() -> None:
    """Not even for its consent to the upload, for which the HTTP client has no limit."""
    use_test_credentials()
    failures: list[LakeError] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hasty = dataclasses.replace(RETRY, total_seconds=0.1, answer_seconds=0.2)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        lake = Lake("s3://bucket/silent", endpoint_url=url, retry=hasty)

        def write() -> None:
            try:
                lake.write("k", b"x")
            except LakeError as error:
                failures.append(error)

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(30.0)
        assert not writing.is_alive()
    assert isinstance(failures[0], TransientLakeError)


# --- credentials ----------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of credentials, which are those that are found."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write_profile(tmp_path / "credentials", "first")
    return tmp_path / "credentials"


def write_profile(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")


@pytest.mark.parametrize(("operation", "kind"), [("read", "ExpiredToken"), ("stat", "400")])
def test_credentials_that_expire_are_read_anew(
    operation: str, kind: str, bucket: str, profile: Path, proxy: FaultProxy
) -> None:
    """What is answered to a HEAD has no word of it."""
    proxy.set(Faults())
    lake = Lake(f"{bucket}/lake", endpoint_url=proxy.url, retry=RETRY)
    lake.write("k", b"x")
    assert lake.storage_options()["AWS_ACCESS_KEY_ID"] == "first"
    write_profile(profile, "second")
    proxy.set(Faults(expired_key="first"))
    assert getattr(lake, operation)("k")
    assert lake.read_many([ReadRequest(key="k")] * 20) == [b"x"] * 20
    assert lake.counts()["retries"] == lake.counts()[f"retries_{kind}"] == 1
    assert lake.storage_options()["AWS_ACCESS_KEY_ID"] == "second", "delta-rs gets them too"


def test_credentials_that_stay_expired_are_named_after_five_tries(
    bucket: str, profile: Path, proxy: FaultProxy
) -> None:
    proxy.set(Faults(expired_key="first"))
    lake = Lake(f"{bucket}/lake", endpoint_url=proxy.url, retry=RETRY)
    with pytest.raises(LakeError, match=r"ExpiredToken.*have expired: log in again") as expired:
        lake.read("k")
    assert not isinstance(expired.value, TransientLakeError)
    assert "first" not in str(expired.value)
    assert proxy.counts()["expired_token"] == RETRY.max_refusals
    assert profile.exists()


# --- what writers that died left ------------------------------------------------------------


def test_uploads_that_nobody_completed_are_swept_once_they_are_old(
    direct: Lake, bucket: str, s3_endpoint: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    for key in ("lake/a/left", "elsewhere/left"):
        upload = s3.create_multipart_upload(Bucket=bucket[5:], Key=key)["UploadId"]
        s3.upload_part(Bucket=bucket[5:], Key=key, UploadId=upload, PartNumber=1, Body=b"12345")
    direct.write("a/whole", b"x")
    century = 100 * 365 * 24 * 3600.0  # to this server, every upload was begun in 2010
    assert direct.sweep(century) == []
    (found,) = direct.sweep(0.0, dry_run=True)
    assert (found.key, found.size_bytes) == ("a/left", 5)
    assert direct.sweep(0.0) == [found]
    assert direct.sweep(0.0) == []
    (left,) = s3.list_multipart_uploads(Bucket=bucket[5:])["Uploads"]
    assert left["Key"] == "elsewhere/left", "only what is below the lake's root"
    assert contents(direct) == {"a/whole": b"x"}


def test_deletions_carry_both_checksums_for_stores_that_know_one_of_them(
    direct: Lake, faulty: Lake, proxy: FaultProxy
) -> None:
    for i in range(3):
        direct.write(f"gone/{i}", b"x")
    proxy.set(Faults(wants_md5=True))
    faulty.delete(f"gone/{i}" for i in range(3))
    assert contents(direct) == {}


def test_a_store_that_lists_no_uploads_is_swept_of_nothing_and_says_so_once(
    direct: Lake, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = Lake(f"{direct.url}/fresh", endpoint_url=proxy.url, retry=RETRY)
    proxy.set(Faults(share=1.0, kinds=("not_implemented",), only=r"GET .*[?&]uploads"))
    assert fresh.sweep(0.0, dry_run=True) == fresh.sweep(0.0) == []
    (message,) = caplog.messages
    assert "does not list them (listing uploads to s3://" in message
    assert "the store answers NotImplemented" in message
    proxy.set(Faults(share=1.0, kinds=("not_implemented",), only="GET"))
    with pytest.raises(LakeError, match="NotImplemented"):
        list(fresh.list_objects())


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
