"""The kinds of `--images`: what decides them, and that images give the same rows in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from steel_batch.pack.packing import PackConfig, pack
from steel_batch.sources.open import open_source
from tests.conftest import PATTERN, committed_rows, fill_lake, run_score, score_config
from tests.sources.made_up_sources import images_of, source_of, tar_of


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{image_id}.tar", "in the name of a container"),
        ("*.tar#x.jpg", "no {image_id}"),
        ("*.parquet#{image_id}", "rows of a Parquet file have no names"),
        ("*.tar.gz", "compressed archives"),
        ("{date}/*.tgz#{image_id}.jpg", "compressed archives"),
        ("./{image_id}.jpg", "matches no key"),
        ("{line}//{image_id}.jpg", "matches no key"),
        ("..\\{image_id}.jpg", "matches no key"),
        ("{line}/../*.tar", "matches no key"),
    ],
)
def test_a_pattern_that_no_container_has_is_refused(
    tmp_path: Path, pattern: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_source(str(tmp_path), pattern)


def test_names_decide_the_kind_and_a_folder_is_never_a_manifest(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("set.parquet/a.jpg", b"a")
    lake.write("set.csv/b.jpg", b"b")
    assert list(images_of(lake, None, "set.parquet")) == ["a.jpg"]
    assert list(images_of(lake, None, "set.csv")) == ["b.jpg"]
    lake.write("one.tar", tar_of([("a.jpg", b"a")]))
    with pytest.raises(ConfigError, match="give its folder as --images"):
        source_of(lake, None, "one.tar")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_images_have_the_same_rows_loose_in_tars_and_in_parquet(
    tmp_path: Path, tiny_engine: Path
) -> None:
    loose = Lake(str(tmp_path / "loose"))
    fill_lake(loose, num_images=12)
    places = {"loose": (loose.url, PATTERN)}
    for form in ("tar", "parquet"):
        settings = PackConfig(
            images=loose.url, key_pattern=PATTERN, out=str(tmp_path / form), format=form,
            shard_bytes=1 << 15,
        )  # fmt: skip
        packed = pack(settings, lambda _: None)
        assert packed.num_shards > 2
        places[form] = (packed.out, packed.key_pattern)
    rows: dict[str, list[dict[str, object]]] = {}
    for kind, (images, pattern) in places.items():
        store = Lake(str(tmp_path / f"store-{kind}"))
        result = run_score(score_config(Lake(images), store, tiny_engine, key_pattern=pattern))
        assert (result.num_scored, result.num_quarantined) == (12, 0)
        rows[kind] = [
            {k: v for k, v in row.items() if k != "image_key"} for row in committed_rows(store)
        ]
    assert all(found == rows["loose"] for found in rows.values())
    assert len(rows["loose"]) == 12
