"""A store that does not decide between two writers is found out before anything is written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steel_batch.errors import LakeError, UndecidedStoreError
from steel_batch.lake import Lake
from steel_batch.lake.probe import NUM_RIVALS, find_flaw, prove_writable, writable
from steel_batch.lake.retry import Retry
from tests.conftest import new_bucket
from tests.fault_proxy import FaultProxy, Faults

pytestmark = pytest.mark.s3

FLAWS = {
    "ignoring": r"of 8 writers that created one object at once, 8 were told that they had "
    r"succeeded \(it ignores",
    "refusing": r"it refuses conditional puts \(.*501|it refuses .*NotImplemented",
    "late": r"of 8 writers that created one object at once, \d were told that they had",
}


@pytest.fixture(params=FLAWS)
def undecided(request: pytest.FixtureRequest) -> tuple[Lake, str]:
    """A store of each kind, and what is said of it."""
    endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    return Lake(f"{new_bucket(endpoint)}/store", endpoint_url=endpoint), FLAWS[request.param]


@pytest.fixture(params=["s3_endpoint", pytest.param("ceph_endpoint", marks=pytest.mark.ceph)])
def deciding(request: pytest.FixtureRequest) -> Lake:
    """A store that decides: moto's and Ceph's."""
    endpoint = request.getfixturevalue(request.param)
    return Lake(f"{new_bucket(endpoint)}/store", endpoint_url=endpoint)


def test_a_store_that_decides_is_found_to_and_keeps_nothing_of_the_race(deciding: Lake) -> None:
    for _ in range(3):
        assert find_flaw(deciding) is None
    assert writable(deciding) is deciding
    assert list(deciding.list_objects()) == []


def test_of_rivals_on_a_store_that_decides_one_wins_in_every_round(deciding: Lake) -> None:
    for number in range(20):
        start = threading.Barrier(NUM_RIVALS)

        def put(body: bytes, key: str = f"key-{number}", start: threading.Barrier = start) -> bool:
            start.wait()
            return deciding.put_if_absent(key, body)

        with ThreadPoolExecutor(NUM_RIVALS) as pool:
            answers = list(pool.map(put, [str(i).encode() for i in range(NUM_RIVALS)]))
        assert answers.count(True) == 1
        assert deciding.read(f"key-{number}") == str(answers.index(True)).encode()


def test_a_store_that_does_not_decide_is_refused_with_the_remedy(
    undecided: tuple[Lake, str],
) -> None:
    store, flaw = undecided
    with pytest.raises(UndecidedStoreError, match=flaw) as caught:
        writable(store)
    for part in (store.url, "lose each other's commits", "--unsafe-single-writer", "AWS S3"):
        assert part in caught.value.message
    assert list(store.list_objects()) == []


def test_a_store_where_a_later_writer_is_refused_may_let_concurrent_ones_win(
    late_endpoint: str,
) -> None:
    """One after the other says nothing: this is why writers race."""
    store = Lake(f"{new_bucket(late_endpoint)}/store", endpoint_url=late_endpoint)
    assert store.put_if_absent("key", b"first")
    assert not store.put_if_absent("key", b"second")
    assert find_flaw(store) is not None


@pytest.mark.parametrize("kind", ["ignoring", "late"])
def test_the_only_writer_of_a_store_that_does_not_decide_may_say_so(
    kind: str, request: pytest.FixtureRequest
) -> None:
    endpoint = request.getfixturevalue(f"{kind}_endpoint")
    url = f"{new_bucket(endpoint)}/store"
    store = writable(Lake(url, endpoint_url=endpoint), single_writer=True)
    assert store.single_writer
    assert store.with_retry(store.retry).single_writer
    assert store.put_if_absent("key", b"first")
    assert not store.put_if_absent("key", b"second")
    assert store.read("key") == b"first"


def test_a_store_that_refuses_conditional_puts_is_refused_whatever_the_user_says(
    refusing_endpoint: str,
) -> None:
    """delta-rs writes each log entry by one, and would ask for ten minutes."""
    store = Lake(f"{new_bucket(refusing_endpoint)}/store", endpoint_url=refusing_endpoint)
    with pytest.raises(UndecidedStoreError, match="does not help here"):
        writable(store, single_writer=True)


def test_that_word_changes_nothing_on_a_store_that_decides(deciding: Lake) -> None:
    assert not writable(deciding, single_writer=True).single_writer


def test_a_process_races_once_for_each_store(bucket: str, s3_endpoint: str) -> None:
    store = Lake(f"{bucket}/store", endpoint_url=s3_endpoint)

    def num_requests(act: Callable[[], object]) -> int:
        before = store.counts().get("requests", 0)
        act()
        return store.counts().get("requests", 0) - before

    assert num_requests(lambda: writable(store)) == NUM_RIVALS + 2
    assert num_requests(lambda: writable(Lake(store.url, endpoint_url=s3_endpoint))) == 0


def test_a_winner_whose_answer_was_lost_is_recognised_by_the_content(s3_endpoint: str) -> None:
    """It is refused when it asks again, like all others."""
    url = f"{new_bucket(s3_endpoint)}/store"
    with FaultProxy(s3_endpoint) as proxy:
        store = Lake(url, endpoint_url=proxy.url, retry=Retry(base_seconds=0.01, max_seconds=0.1))
        proxy.set(Faults(share=0.5, kinds=("reset_after",), only="^PUT"))
        for _ in range(6):
            assert find_flaw(store) is None
        assert proxy.counts()["reset_after"] > NUM_RIVALS


def test_a_store_that_cannot_be_written_is_not_called_undecided(s3_endpoint: str) -> None:
    with pytest.raises(LakeError, match="there is no such bucket") as caught:
        writable(Lake("s3://no-such-bucket-at-all/x", endpoint_url=s3_endpoint))
    assert not isinstance(caught.value, UndecidedStoreError)


def test_a_proof_that_a_store_can_be_written_leaves_no_object(lake: Lake) -> None:
    prove_writable(lake)
    assert list(lake.list_objects()) == []


def test_a_store_that_is_a_file_or_a_missing_bucket_is_named(
    tmp_path: Path, s3_endpoint: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for store, reason in (
        (Lake(str(tmp_path / "file")), "a part of that path is a file; choose a folder"),
        (Lake("s3://no-such-bucket-at-all/x", endpoint_url=s3_endpoint), "no such bucket"),
    ):
        with pytest.raises(LakeError, match=f"^--store {store.url} cannot be written: .*{reason}"):
            prove_writable(store)
