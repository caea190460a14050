"""The copy of a table's log: each look at it finds what a reader would find in the store."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch.errors import LakeError
from steel_batch.lake import Lake
from steel_batch.lake.retry import Retry
from steel_batch.tables.log_mirror import LogMirror, log_mirror
from steel_batch.tables.table_log import ensure_tables, open_table
from tests.conftest import examples
from tests.log_proxy import CONFLICT, log_proxy
from tests.tables.conftest import empty_store
from tests.tables.logs import LOG, TABLE, CountingLake, append, seen, write_as_another_program

store = empty_store


# --- looking --------------------------------------------------------------------------------


def test_a_look_at_an_unchanged_log_is_one_listing(store: Lake) -> None:
    counting, copy = CountingLake(store.url), LogMirror(TABLE)
    copy.look(counting)
    counting.num_listings = counting.num_reads = 0
    assert seen(copy.look(counting), ["a"]) == (0, [])
    assert (counting.num_listings, counting.num_reads) == (1, 0)
    write_as_another_program(store, "a")
    assert seen(copy.look(counting), ["a"]) == (1, ["a"])
    assert (counting.num_listings, counting.num_reads) == (2, 1)


@pytest.mark.s3
def test_an_entry_that_was_put_is_not_read_back_unless_another_replaced_it(
    bucket: str, s3_endpoint: str
) -> None:
    store, copy = CountingLake(f"{bucket}/store", endpoint_url=s3_endpoint), LogMirror(TABLE)
    ensure_tables(store)
    copy.look(store)
    assert append(store, 0, "a", copy)
    store.num_reads = 0
    assert seen(copy.look(store), ["a"]) == (1, ["a"])
    assert store.num_reads == 0
    assert append(store, 1, "b", copy)
    theirs = store.read(f"{LOG}{1:020d}.json").replace(b'"a"', b'"c"')
    store.write(f"{LOG}{2:020d}.json", theirs)
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "c"])


def test_there_is_no_table_where_there_is_no_log(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "empty"))
    assert LogMirror(TABLE).look(lake) is None
    ensure_tables(lake)
    assert log_mirror(lake, TABLE).look(lake) is not None


def test_an_entry_that_another_replaced_is_not_what_was_copied(store: Lake) -> None:
    copy = LogMirror(TABLE)
    for writer in ("a", "b"):
        write_as_another_program(store, writer)
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "b"])
    entry = f"{LOG}{2:020d}.json"
    store.write(entry, store.read(entry).replace(b'"appId":"b"', b'"appId":"c"'))
    assert seen(copy.look(store), ["a", "b", "c"]) == (2, ["a", "c"])


def test_a_table_that_was_opened_stays_as_it_was(store: Lake) -> None:
    """It reads its entries when it is asked, so they must not go with the next copy."""
    copy = LogMirror(TABLE)
    write_as_another_program(store, "a")
    before = copy.look(store)
    DeltaTable(store.uri(TABLE)).create_checkpoint()
    write_as_another_program(store, "b")
    assert seen(copy.look(store), ["a", "b"]) == (2, ["a", "b"])
    assert seen(before, ["a", "b"]) == (1, ["a"])
    folder = Path(str(before.table_uri).removeprefix("file://")) if before is not None else Path()
    assert folder.exists()
    del before
    assert not folder.exists(), "a copy that nobody uses is deleted"


STEPS = ("ours", "another's", "checkpoint", "another's checkpoint", "lost", "replaced", "look")


@settings(max_examples=examples(24))
@given(steps=st.lists(st.sampled_from(STEPS), min_size=4, max_size=12))
def test_a_look_finds_what_a_reader_finds_who_opens_the_table(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Lake(str(tmp_path_factory.mktemp("stores")))
    ensure_tables(store)
    copy = LogMirror(TABLE)
    writers: list[str] = ["another"]
    for step in steps:
        entries = sorted(Path(store.url, LOG).glob("*.json"))
        checkpoints = sorted(Path(store.url, LOG).glob("*.checkpoint.parquet"))
        is_behind = bool(checkpoints) and checkpoints[-1].name[:20] == entries[-1].name[:20]
        if step == "ours":
            writers.append(f"w{len(writers)}")
            opened = copy.look(store)
            assert opened is not None
            assert append(store, opened.version(), writers[-1], copy)
        elif step == "another's":
            writers.append(f"w{len(writers)}")
            write_as_another_program(store, writers[-1])
        elif step == "checkpoint":
            copy.look(store)
            copy.checkpoint(store, 1)
        elif step == "another's checkpoint":
            DeltaTable(store.uri(TABLE)).create_checkpoint()
        elif step == "lost" and len(entries) > 1 and not is_behind:
            entries[-1].unlink()
        elif step == "replaced" and len(entries) > 1 and not is_behind:
            text = entries[-1].read_text().replace('"appId":"w', '"appId":"another-')
            entries[-1].write_text(text)
            writers.extend(f"another-{number}" for number in range(len(writers)))
        elif step == "look":
            copy.look(store)
    assert seen(copy.look(store), writers) == seen(DeltaTable(store.uri(TABLE)), writers)


# --- writing --------------------------------------------------------------------------------


def test_of_writers_after_one_version_one_succeeds(lake: Lake) -> None:
    """Each has a copy of its own, as processes have."""
    ensure_tables(lake)
    start, written = threading.Barrier(4), []

    def write(writer: str) -> None:
        copy = LogMirror(TABLE)
        copy.look(lake)
        start.wait()
        if append(lake, 0, writer, copy):
            written.append(writer)

    threads = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    writers = [f"w{number}" for number in range(4)]
    assert seen(open_table(lake, TABLE), writers) == (1, written)


def test_nothing_is_written_after_a_version_that_is_not_the_newest(store: Lake) -> None:
    copy = log_mirror(store, TABLE)
    copy.look(store)
    write_as_another_program(store, "a")
    copy.look(store)
    assert not append(store, 0, "b", copy)
    assert seen(open_table(store, TABLE), ["a", "b"]) == (1, ["a"])


@pytest.mark.s3
def test_a_refusal_that_no_entry_explains_is_an_unknown_outcome(
    s3_endpoint: str, bucket: str
) -> None:
    """An earlier request, whose answer was lost, may still arrive."""
    with log_proxy(s3_endpoint) as (proxy, url):
        lake = Lake(f"{bucket}/store", endpoint_url=url, retry=Retry(total_seconds=0.4))
        ensure_tables(lake)
        log_mirror(lake, TABLE).look(lake)
        proxy.faults = [CONFLICT]
        with pytest.raises(LakeError, match="as if it existed, but it does not"):
            append(lake, 0, "a")
        proxy.faults = []
        assert append(lake, 0, "a")


def test_an_entry_is_what_deltalake_writes(store: Lake) -> None:
    """Readers and other writers see no difference; the entry is not in the copy before a look."""
    copy = LogMirror(TABLE)
    copy.look(store)
    assert append(store, 0, "a", copy)
    lines = [json.loads(line) for line in store.read(f"{LOG}{1:020d}.json").splitlines()]
    (info,) = [line["commitInfo"] for line in lines if "commitInfo" in line]
    assert info["operation"] == "WRITE"
    assert info["by"] == "a"
    assert not append(store, 1, "b", copy), "version 1 was not looked at yet"
