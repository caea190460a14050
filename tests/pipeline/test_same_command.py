"""What the same command does on images that are new, changed, bad, or beyond a limit."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from steel_batch.errors import ConfigError, PlanMismatchError, TooManyBadImagesError
from steel_batch.lake import Lake
from steel_batch.tables.verify import verify
from tests.conftest import DATE, band_image, committed_rows, fill_lake, png, score_config
from tests.score_here import score_here


@pytest.fixture
def images(lake: Lake, tmp_path: Path) -> Lake:
    """Thirty images on two lines."""
    place = Lake(f"{lake.url}/images", endpoint_url=lake.endpoint_url)
    fill_lake(place, num_images=30)
    return place


@pytest.fixture
def store(lake: Lake) -> Lake:
    return Lake(f"{lake.url}/store", endpoint_url=lake.endpoint_url)


@pytest.mark.quick("folder")
def test_late_images_are_added_and_the_summary_covers_both_runs(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine)
    score_here(config)
    images.write(f"line=3/date={DATE}/late.png", png(band_image(1)))
    late = score_here(config)
    assert (late.num_images, late.num_committed_before) == (1, 30)
    assert len(committed_rows(store)) == 31
    summaries = committed_rows(store, "class_summaries")
    assert len(summaries) == 3 * 4
    assert {(row["line"], row["num_images"]) for row in summaries} == {
        ("1", 15),
        ("2", 15),
        ("3", 1),
    }
    names = [i.key for i in store.list_objects("class_summaries/") if i.key.endswith(".parquet")]
    assert len(names) == 1


@pytest.mark.quick("folder")
def test_a_limit_scores_the_first_images_and_the_same_command_without_it_the_others(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine)
    tried = score_here(config.replace(max_images=10))
    assert (tried.num_images, tried.num_scored, tried.num_beyond_limit) == (10, 10, 20)
    first = [row["image_key"] for row in committed_rows(store)]
    assert first == sorted(item.key for item in images.list_objects("line=1/"))[:10]
    more = score_here(config.replace(max_images=10))
    assert (more.num_images, more.num_beyond_limit, more.num_committed_before) == (10, 10, 10)
    rest = score_here(config)
    assert (rest.num_images, rest.num_beyond_limit, rest.num_committed_before) == (10, 0, 20)
    assert len(committed_rows(store)) == 30
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_bad_images_are_quarantined_and_the_run_goes_on(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    bad = {
        f"line=1/date={DATE}/empty.png": b"",
        f"line=1/date={DATE}/page.png": b"<html>no image</html>",
        f"line=1/date={DATE}/small.png": png(np.zeros((8, 8), np.uint8)),
    }
    for key, data in bad.items():
        images.write(key, data)
    with pytest.raises(TooManyBadImagesError, match="--max-bad"):
        score_here(score_config(images, store, tiny_engine))
    assert committed_rows(store) == []
    result = score_here(score_config(images, store, tiny_engine, max_bad=0.2))
    assert (result.num_images, result.num_scored, result.num_quarantined) == (33, 30, 3)
    found = {row["image_key"]: row["error_code"] for row in committed_rows(store, "quarantine")}
    assert list(found) == sorted(bad)
    assert list(found.values()) == ["empty", "not_an_image", "wrong_size"]


@pytest.mark.quick("folder")
def test_an_unfinished_run_with_other_settings_is_not_continued(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    images.write(f"line=1/date={DATE}/empty.png", b"")
    with pytest.raises(TooManyBadImagesError):
        score_here(score_config(images, store, tiny_engine, max_bad=0.0))
    with pytest.raises(PlanMismatchError, match="shard_images was 8 and is now 4"):
        score_here(score_config(images, store, tiny_engine, shard_images=4, max_bad=0.5))
    result = score_here(
        score_config(images, store, tiny_engine, shard_images=4, max_bad=0.5, fresh=True)
    )
    assert result.run_id is not None
    assert result.run_id.endswith("-0002")
    assert result.num_scored == 30


@pytest.mark.quick("folder")
def test_a_changed_image_is_reported_and_scored_again_on_demand(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    config = score_config(images, store, tiny_engine, merge_bytes=1)
    score_here(config)
    before = committed_rows(store)
    key = f"line=1/date={DATE}/im00000.png"
    images.write(key, png(np.full((64, 160), 250, np.uint8)))
    images.write(f"line=1/date={DATE}/new.png", png(band_image(1)))
    added = score_here(config)
    assert (added.num_images, added.num_changed) == (1, 1)
    again = score_here(config.replace(rescore_changed=True))
    assert (again.num_images, again.num_scored, again.num_changed) == (1, 1, 1)
    after = {row["image_key"]: row for row in committed_rows(store)}
    assert len(after) == 31
    assert len(committed_rows(store)) == 31
    assert after[key]["defects"][0]["area_px"] > 10_000  # type: ignore[index]
    for row in before[1:]:
        assert after[row["image_key"]] == row
    live = [i.key for i in store.list_objects("predictions/engine=") if "part-" in i.key]
    with duckdb.connect() as con:
        if not store.is_s3:
            glob = f"{store.url}/predictions/*/*/*.parquet"
            assert con.sql(f"SELECT count(*) FROM '{glob}'").fetchall() == [(31,)]
    assert len(live) == 6


@pytest.mark.quick("folder")
def test_quarantined_images_can_be_tried_again(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    good, bad = f"line=1/date={DATE}/was_bad.png", f"line=1/date={DATE}/bad.png"
    images.write(good, b"half")
    images.write(bad, b"half")
    config = score_config(images, store, tiny_engine, max_bad=1)
    score_here(config)
    assert score_here(config).run_id is None
    again = score_here(config.replace(retry_quarantined=True, max_bad=0))
    assert (again.num_images, again.num_scored, again.num_quarantined) == (2, 0, 2)
    assert (again.num_retried, again.num_bad_again) == (2, 2)
    images.write(good, png(band_image(1)))
    result = score_here(config.replace(retry_quarantined=True, max_bad=0))
    assert (result.num_images, result.num_scored, result.num_quarantined) == (2, 1, 1)
    assert [row["image_key"] for row in committed_rows(store, "quarantine")] == [bad]
    assert len(committed_rows(store)) == 31
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_an_image_that_was_half_written_gets_its_row_when_it_is_whole(
    images: Lake, store: Lake, tiny_engine: Path
) -> None:
    late, bad = f"line=1/date={DATE}/half.png", f"line=1/date={DATE}/bad.png"
    whole = png(band_image(1))
    images.write(late, whole[:-20])
    images.write(bad, b"half")
    config = score_config(images, store, tiny_engine, max_bad=0.1)
    assert score_here(config).num_quarantined == 2
    assert score_here(config).run_id is None
    images.write(late, whole)
    result = score_here(config)  # the same command, as `backfill --recheck` gives it
    assert (result.num_images, result.num_scored, result.num_retried) == (1, 1, 1)
    assert [row["image_key"] for row in committed_rows(store, "quarantine")] == [bad]
    assert len(committed_rows(store)) == 31
    assert score_here(config).run_id is None
    assert list(verify(store)) == []


@pytest.mark.quick("folder")
def test_max_bad_is_a_share_of_the_new_images(images: Lake, store: Lake, tiny_engine: Path) -> None:
    for number in range(3):
        images.write(f"line=1/date={DATE}/bad{number}.png", b"half")
    config = score_config(images, store, tiny_engine, max_bad=0.1)
    score_here(config)
    images.write(f"line=1/date={DATE}/new0.png", png(band_image(1)))
    images.write(f"line=1/date={DATE}/new1.png", b"half")
    retry = config.replace(retry_quarantined=True)
    with pytest.raises(TooManyBadImagesError, match="1 of 2 new images cannot be scored"):
        score_here(retry)
    result = score_here(retry.replace(max_bad=0.5))
    assert (result.num_images, result.num_retried, result.num_bad_again) == (5, 3, 3)
    assert len(committed_rows(store, "quarantine")) == 4


@pytest.mark.quick("folder")
def test_small_files_are_cut_by_size(images: Lake, store: Lake, tiny_engine: Path) -> None:
    score_here(score_config(images, store, tiny_engine, merge_bytes=1))
    names = [i.key for i in store.list_objects("predictions/engine=") if "part-" in i.key]
    assert len(names) == 4
    assert len(committed_rows(store)) == 30


def test_nothing_to_score_says_what_is_there(images: Lake, store: Lake, tiny_engine: Path) -> None:
    with pytest.raises(ConfigError, match=r"found for example 'line=1/date=2026-11-21/im"):
        score_here(score_config(images, store, tiny_engine, key_pattern="day/{image_id}.png"))
    with pytest.raises(ConfigError, match="2020-01-01"):
        score_here(score_config(images, store, tiny_engine, date="2020-01-01"))
    empty = Lake(f"{images.url}/nothing", endpoint_url=images.endpoint_url)
    with pytest.raises(ConfigError, match=r"no (objects under|folder)"):
        score_here(score_config(empty, store, tiny_engine))
