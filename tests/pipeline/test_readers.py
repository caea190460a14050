"""What readers see while a run commits: of Delta all or nothing, of the plain files a part."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import numpy as np
import pytest
import s3fs
from deltalake import DeltaTable

from steel_batch.config import ScoreConfig
from steel_batch.lake import Lake
from steel_batch.runs.events import Progress
from steel_batch.tables.table_log import ensure_tables
from tests.conftest import DATE, fill_lake, png, scope_of, score_config
from tests.score_here import complete_here, score_here

NUM_IMAGES, NUM_FILES = 12, 6


class TimedLake(Lake):
    """Notes when each file of the predictions became visible."""

    def __init__(self, url: str, *, endpoint_url: str | None) -> None:
        super().__init__(url, endpoint_url=endpoint_url)
        self.published: list[float] = []

    def copy(self, source: str, target: str) -> None:
        super().copy(source, target)
        if target.startswith("predictions/"):
            self.published.append(time.monotonic())


@dataclass
class Poller:
    """Reads the predictions over and over from a thread, until it is told to stop."""

    store: Lake
    glob: list[tuple[float, float, int, int]] = field(default_factory=list)
    """Begin, end, rows and different images of each reading of the plain files."""
    delta: list[tuple[int, int]] = field(default_factory=list)
    """Rows and different images of each reading of the Delta table."""
    vanished: int = 0
    """Readings that failed because a file was replaced between its listing and its reading."""

    def __enter__(self) -> Poller:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=t) for t in (self._poll_glob, self._poll_delta)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _poll_glob(self) -> None:
        pattern = f"{self.store.url}/predictions/*/*/*.parquet"
        with duckdb.connect() as con:
            if self.store.is_s3:
                con.register_filesystem(
                    s3fs.S3FileSystem(
                        endpoint_url=self.store.endpoint_url, use_listings_cache=False,
                        skip_instance_cache=True,
                    )
                )  # fmt: skip
            while not self._stop.is_set():
                begun = time.monotonic()
                try:
                    sql = f"SELECT count(*), count(DISTINCT image_key) FROM '{pattern}'"
                    rows, images = con.sql(sql).fetchall()[0]
                except (duckdb.Error, FileNotFoundError) as error:
                    if "No files found" not in str(error):
                        self.vanished += 1
                        continue
                    rows = images = 0
                self.glob.append((begun, time.monotonic(), rows, images))

    def _poll_delta(self) -> None:
        options = self.store.storage_options()
        while not self._stop.is_set():
            table = DeltaTable(f"{self.store.url}/predictions", storage_options=options)
            try:
                keys = table.to_pyarrow_table(columns=["image_key"])["image_key"]
            except OSError:
                self.vanished += 1
                continue
            self.delta.append((len(keys), len(keys.unique())))


def complete_watched(config: ScoreConfig, store: Lake) -> Poller:
    """Score a date, and read all the time from shortly before its commit to shortly after it."""
    seen = Poller(store)
    with contextlib.ExitStack() as stack:

        def observe(progress: Progress) -> None:
            if progress.step == "committing":
                stack.enter_context(seen)
                while not (seen.glob and seen.delta):
                    time.sleep(0.01)

        complete_here(scope_of(config, store), observe)
        num_seen = len(seen.glob), len(seen.delta)
        while len(seen.glob) < num_seen[0] + 2 or len(seen.delta) < num_seen[1] + 2:
            time.sleep(0.01)
    return seen


@pytest.fixture
def places(lake: Lake) -> tuple[Lake, TimedLake]:
    """Images, and a store whose tables are there."""
    return fill_places(lake)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Lake, TimedLake]:
    """The same in folders."""
    return fill_places(Lake(str(tmp_path)))


def fill_places(lake: Lake) -> tuple[Lake, TimedLake]:
    images = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    store = TimedLake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)
    fill_lake(images, num_images=NUM_IMAGES)
    ensure_tables(store)
    return images, store


@pytest.mark.quick("folder")
def test_delta_readers_see_all_of_a_date_or_nothing_and_a_glob_has_one_window(
    places: tuple[Lake, TimedLake], tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Publishing is one copy per file, one after the other, and a plain glob sees each at once.

    Measured on 23 November 2026 on 2 cores that had other work (load 7 to 14), files of 8 kB: a
    glob saw a part of the date for 20 ms (6 files) and 10 to 33 ms (12 files) in a folder, where a
    copy is a link, and for 152 ms (6) and 267 to 315 ms (12) on moto's S3: about 3 and 30 ms for
    each further file. A run of one file has no such window. Large objects in a real bucket were not
    measured: there a copy takes as long as the store needs for its bytes.
    """
    images, store = places
    config = score_config(images, store, tiny_engine, shard_images=2, merge_bytes=1)
    seen = complete_watched(config, store)
    assert {rows for rows, _ in seen.delta} == {0, NUM_IMAGES}
    counts = [rows for _, _, rows, _ in seen.glob]
    assert (counts[0], counts[-1]) == (0, NUM_IMAGES)
    assert counts == sorted(counts), "rows appear and none goes"
    assert all(rows == images for _, _, rows, images in seen.glob), "and none is there twice"
    assert seen.vanished == 0
    assert len(store.published) == NUM_FILES
    window = store.published[-1] - store.published[0]
    with capsys.disabled():
        print(
            f"\n{'S3' if store.is_s3 else 'folder'}: a glob sees a part of {NUM_FILES} files for "
            f"{1000 * window:.1f} ms; {len(seen.glob)} readings saw {len(set(counts)) - 2} "
            f"different parts, {len(seen.delta)} Delta readings none"
        )


def test_delta_readers_see_rows_replaced_at_once_and_a_glob_sees_both_in_one_window(
    folders: tuple[Lake, TimedLake], tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replaced files are deleted right after their table's commit: until then a glob sees both.

    Measured as above, one file in place of another: rows of both for 0.02 to 0.04 s in a folder,
    bounds by a reader that takes its time; on S3 it is the time of a commit and a deletion. A
    reader of either kind that has listed a replaced file may find it gone when it reads, as one of
    130 readings did: an error and never a wrong row. Reading again is right.
    """
    images, store = folders
    config = score_config(images, store, tiny_engine)
    score_here(config)
    for i in range(0, NUM_IMAGES, 3):
        key = f"line={1 + i % 2}/date={DATE}/im{i:05d}.png"
        images.write(key, png(np.full((64, 160), 250, np.uint8)))
    seen = complete_watched(config.replace(rescore_changed=True), store)
    assert set(seen.delta) == {(NUM_IMAGES, NUM_IMAGES)}
    assert {images for *_, images in seen.glob} == {NUM_IMAGES}, "no image is ever without a row"
    assert seen.glob[-1][2] == NUM_IMAGES
    twice = [(begun, ended) for begun, ended, rows, _ in seen.glob if rows > NUM_IMAGES]
    seconds = twice[-1][1] - twice[0][0] if twice else 0.0
    with capsys.disabled():
        print(
            f"\nfolder: a glob sees replaced rows beside new ones for "
            f"up to {seconds:.3f} s; {seen.vanished} of {len(seen.glob) + len(seen.delta)} "
            "readings met a file that went meanwhile"
        )
