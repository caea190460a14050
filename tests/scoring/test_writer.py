"""Rows written by a process of its own: the same as here, whatever becomes of the process."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steel_batch import layout
from steel_batch.errors import ClusterError, LakeError, TransientLakeError
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.runs.events import Meter
from steel_batch.runs.receipt import Receipt
from steel_batch.scoring.children import Children
from steel_batch.scoring.rows import ScoredBy, ScoredShard
from steel_batch.scoring.scorer import ShardScorer
from steel_batch.scoring.shard import check_jpegs
from steel_batch.scoring.writer import ChildWriter, LocalWriter
from tests.image_files import HEIGHT, WIDTH
from tests.scoring.test_describer import is_alive, pid_of
from tests.scoring.test_provenance import CARD, sized_shard
from tests.scoring.test_score_jpegs import DECODING, DeviceRuntime, open_cpu, scores

RUN = "2026-11-21-tiny-000000000000-0001"


def made_up() -> ScoredShard:
    """A shard of strange files between scoring and writing: some have rows, some errors."""
    given = check_jpegs(sized_shard(), HEIGHT, WIDTH)
    runtime = DeviceRuntime(open_cpu())
    return ScoredShard(
        run_id=RUN, plan_digest="d", shard=7, refs=given.refs,
        scores=scores(runtime, given, Lake("/nowhere")),
        scored_by=ScoredBy(
            provenance=runtime.provenance, cpu_decoder="a decoder", scorer="here",
            num_classes=len(CARD.classes),
        ),
        scored_at="2026-11-29T10:11:12.131415+00:00", started_seconds=time.monotonic(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scored() -> ScoredShard:
    return made_up()


def without_time(receipt: Receipt) -> Receipt:
    return dataclasses.replace(receipt, seconds=0.0)


@pytest.fixture
def child(folder_daily: Lake) -> Iterator[ChildWriter]:
    made = ChildWriter(folder_daily)
    yield made
    made.close()


def wait_until_ended(process: int) -> None:
    until = time.monotonic() + 60
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(process)


def test_a_child_stages_the_bytes_and_the_receipt_that_are_written_here(
    scored: ScoredShard, lake: Lake, tmp_path: Path
) -> None:
    here = Lake(str(tmp_path / "here"))
    expected = LocalWriter(here).write(scored)
    child = ChildWriter(lake)
    found = child.write(scored)
    child.close()
    assert without_time(found) == without_time(expected)
    assert found.quarantined
    assert sum(found.num_defective)
    assert found.staged is not None
    assert lake.read(found.staged) == here.read(found.staged)
    stored = lake.read(layout.receipt_file(RUN, 7))
    assert Receipt.from_json(stored, source="the store") == found


def test_a_shard_without_rows_has_a_receipt(scored: ScoredShard, child: ChildWriter) -> None:
    error = next(shape for shape in scored.scores.shapes if isinstance(shape, Exception))
    bad = dataclasses.replace(scored.scores, shapes=[error] * len(scored.refs))
    found = child.write(dataclasses.replace(scored, scores=bad))
    assert (found.num_rows, found.staged) == (0, None)
    assert len(found.quarantined) == len(scored.refs)


def test_a_child_that_is_killed_is_replaced_and_its_shard_written_again(
    scored: ScoredShard, child: ChildWriter
) -> None:
    first = child.write(scored)
    os.kill(pid_of(child), signal.SIGKILL)
    assert child.write(scored) == first, "of two receipts, the first one stands"


def test_a_child_loads_no_pandas(scored: ScoredShard, child: ChildWriter) -> None:
    pytest.importorskip("pandas")
    child.write(scored)
    assert "/pandas/" not in Path(f"/proc/{pid_of(child)}/maps").read_text()


@pytest.mark.s3
def test_requests_of_a_child_are_counted_as_if_they_were_made_here(
    scored: ScoredShard, bucket: str, s3_endpoint: str
) -> None:
    places = [Lake(f"{bucket}/{part}", endpoint_url=s3_endpoint) for part in ("one", "two")]
    meter = Meter(places[0])
    LocalWriter(places[0]).write(scored)
    child = ChildWriter(places[1])
    assert not child.take_counts()
    child.write(scored)
    counts = child.take_counts()
    assert counts == meter.take()
    assert counts["requests"] > 1
    assert not child.take_counts()
    child.close()


@pytest.mark.s3
def test_credentials_come_from_the_environment_and_are_no_argument(
    scored: ScoredShard, bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    child = ChildWriter(Lake(bucket, endpoint_url=s3_endpoint))
    assert child.write(scored).num_rows
    folder = Path(f"/proc/{pid_of(child)}")
    assert bucket.encode() in (folder / "cmdline").read_bytes()
    assert b"not-to-be-seen" not in (folder / "cmdline").read_bytes()
    assert b"not-to-be-seen" in (folder / "environ").read_bytes()
    child.close()


def same_error(scored: ScoredShard, store: Lake) -> LakeError:
    """What both writers raise."""
    found = []
    child = ChildWriter(store)
    for writer in (LocalWriter(store), child):
        with pytest.raises(LakeError) as caught:
            writer.write(scored)
        found.append(caught.value)
    assert type(found[0]) is type(found[1])
    assert found[0].message == found[1].message
    child.close()
    return found[1]


def test_a_store_that_cannot_be_written_is_the_same_error(
    scored: ScoredShard, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "file" in same_error(scored, Lake(str(tmp_path / "file"))).message


def test_another_shards_receipt_in_its_place_is_the_same_error(
    scored: ScoredShard, tmp_path: Path
) -> None:
    store = Lake(str(tmp_path))
    store.write(layout.receipt_file(RUN, 7), b"{}")
    assert "is not the receipt of its shard" in same_error(scored, store).message


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """A store that takes requests and never answers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "testing")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield Lake("s3://bucket/store", endpoint_url=url)


def test_a_store_that_is_not_reached_is_the_same_transient_error(
    scored: ScoredShard, silent: Lake
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    retry = Retry(total_seconds=0.1, unreachable_seconds=0.1)
    store = Lake(silent.url, endpoint_url=url, retry=retry)
    assert isinstance(same_error(scored, store), TransientLakeError)


def test_children_that_keep_ending_are_an_error(scored: ScoredShard, silent: Lake) -> None:
    child = ChildWriter(silent)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(child.write, scored)
        killed = set()
        while not writing.done():
            process = child.pid
            if process is not None and process not in killed:
                time.sleep(0.2)
                killed.add(process)
                os.kill(process, signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"writes rows ended 2 times \(exit -9\)"):
            writing.result()
    child.close()


def test_a_shard_that_ends_every_child_is_an_error_with_their_own_exit_code(
    scored: ScoredShard, child: ChildWriter
) -> None:
    torn = dataclasses.replace(scored, refs=scored.refs.slice(0, 1))
    with pytest.raises(ClusterError, match=r"writes rows ended 2 times \(exit 1\)"):
        child.write(torn)
    assert child.write(scored).num_rows


def test_a_child_minds_no_interrupt_and_ends_with_its_writer(
    scored: ScoredShard, child: ChildWriter
) -> None:
    first = child.write(scored)
    process = pid_of(child)
    os.kill(process, signal.SIGINT)
    assert child.write(scored) == first
    assert pid_of(child) == process
    child.close()
    child.close()
    assert not Path(f"/proc/{process}").exists(), "nor is it left as a zombie"


def test_a_child_ends_with_an_actor_that_is_killed_even_during_a_request(
    scored: ScoredShard, silent: Lake, tmp_path: Path
) -> None:
    shard = tmp_path / "shard"
    shard.write_bytes(b"".join(scored.to_parts()))
    code = (
        "from pathlib import Path\n"
        "from steel_batch.lake import Lake\n"
        "from steel_batch.scoring.rows import ScoredShard\n"
        "from steel_batch.scoring.writer import ChildWriter\n"
        f"shard = ScoredShard.from_bytes(Path({str(shard)!r}).read_bytes())\n"
        f"child = ChildWriter(Lake({silent.url!r}, endpoint_url={silent.endpoint_url!r}))\n"
        "print(child.pid, flush=True); child.write(shard)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as actor:
        process = int((actor.stdout or sys.stdin.buffer).readline())
        time.sleep(1.0)
        assert is_alive(process)
        actor.kill()
    wait_until_ended(process)


def test_an_actor_with_children_leaves_the_rows_of_one_without(tmp_path: Path) -> None:
    given = dataclasses.replace(check_jpegs(sized_shard(), HEIGHT, WIDTH), run_id=RUN)
    tables, receipts, processes = [], [], []
    for number in (0, 2):
        store = Lake(str(tmp_path / str(number)))
        children = Children.start(
            CARD.post_process, store, num_describers=number, num_writers=number
        )
        processes += [pid_of(child) for child in (*children.describers, *children.writers)]
        scorer = ShardScorer(
            DeviceRuntime(open_cpu()), CARD, store, DECODING, num_threads=2, children=children
        )
        receipts.append(scorer.score(given))
        scorer.close()
        rows = pq.read_table(store.uri(str(receipts[-1].staged)))
        tables.append(rows.drop_columns("scored_at"))
    assert tables[1].equals(tables[0])
    assert receipts[1].quarantined == receipts[0].quarantined
    assert receipts[1].num_defective == receipts[0].num_defective
    assert len(processes) == 4
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
