"""What S3 stores refuse for long or for good: it is given up in time, and named."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from pathlib import Path

import pytest

from steel_batch.errors import ConfigError, LakeError, MissingObjectError, TransientLakeError
from steel_batch.lake import Lake, ReadRequest
from steel_batch.lake.s3_client import READS_AT_ONCE
from tests.conftest import use_test_credentials
from tests.fault_proxy import FaultProxy, Faults
from tests.lake.s3_lakes import RETRY, hasty_retry

pytestmark = pytest.mark.s3


# --- settings of AWS ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable", ["AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"]
)
def test_settings_of_aws_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    damaged = tmp_path / "settings"
    damaged.write_text("[default\naws_x")
    monkeypatch.setenv(variable, "no-such-profile" if variable == "AWS_PROFILE" else str(damaged))
    with pytest.raises(ConfigError, match=r"the AWS settings cannot be used: .*(profile|settings)"):
        Lake(f"s3://bucket/{variable}").stat("k")


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_file_of_certificates_that_cannot_be_read_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_endpoint: str, content: bytes | None
) -> None:
    use_test_credentials()
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    lake = Lake("s3://bucket/x", endpoint_url=s3_endpoint.replace("http://", "https://"))
    with pytest.raises(LakeError, match="the certificates of AWS_CA_BUNDLE"):
        lake.stat("k")


def test_an_endpoint_without_tls_is_not_waited_for(s3_endpoint: str) -> None:
    use_test_credentials()
    lake = Lake("s3://bucket/y", endpoint_url=s3_endpoint.replace("http://", "https://"))
    with pytest.raises(LakeError, match="does not use TLS: give it as http://"):
        lake.stat("k")


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
    give_up = time.monotonic() + 120
    while faulty.counts()["reads_at_once"] < READS_AT_ONCE and time.monotonic() < give_up:
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
