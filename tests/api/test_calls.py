"""The public names of the package, and what they give."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import steel_batch
from steel_batch.errors import ConfigError
from steel_batch.lake import Lake
from tests.conftest import DATE, fill_lake, score_config
from tests.made_up_run import commit_run, image_keys
from tests.scored_store import score_without_ray

PUBLIC = {
    "DatePlan", "OpenStore", "RunResult", "ScoreConfig", "SteelBatchError", "__version__",
    "open_store", "plan", "score",
}  # fmt: skip


def test_the_public_names_are_these_and_each_can_be_had() -> None:
    assert set(steel_batch.__all__) == PUBLIC
    assert set(dir(steel_batch)) >= PUBLIC
    assert all(getattr(steel_batch, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = steel_batch.nonsense  # type: ignore[attr-defined]


def test_the_types_that_are_stated_are_those_of_the_names() -> None:
    stub = (Path(steel_batch.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    stated = {line.split()[-1] for line in stub.splitlines() if line.startswith("from ")}
    assert {*stated, "__version__"} == PUBLIC


def test_importing_the_package_loads_next_to_nothing() -> None:
    script = (
        "import sys; import steel_batch; "
        "print(*{m.partition('.')[0] for m in sys.modules} & "
        "{'ray', 'duckdb', 'pyarrow', 'numpy', 'cv2', 'click', 'onnxruntime'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_a_store_gives_its_views_to_arrow_pandas_and_polars(tmp_path: Path) -> None:
    commit_run(Lake(str(tmp_path)), image_keys(8))
    with steel_batch.open_store(str(tmp_path), pixel_mm=["0.5"]) as store:
        sql = "SELECT image_key, area_mm2 FROM defects ORDER BY ALL"
        rows = store.sql(sql).to_arrow_table().to_pylist()
        assert len(rows) > 3
        assert store.view("defects").to_arrow_table().num_rows == len(rows)
        pytest.importorskip("pandas")
        assert store.sql(sql).df().to_dict("records") == rows
        pytest.importorskip("polars")
        assert store.sql(sql).pl().to_dicts() == rows


def test_a_mistyped_store_or_moment_is_an_error_of_ours(tmp_path: Path) -> None:
    commit_run(Lake(str(tmp_path)), image_keys(2))
    with pytest.raises(ConfigError, match="neither a version"):
        steel_batch.open_store(str(tmp_path), as_of="yesterday")
    with steel_batch.open_store(str(tmp_path)) as store, pytest.raises(steel_batch.SteelBatchError):
        store.sql("FROM nonsense")


def test_a_moment_may_be_a_version_a_date_or_a_time(tmp_path: Path) -> None:
    commit_run(Lake(str(tmp_path)), image_keys(8))
    now = datetime.datetime.now(datetime.timezone.utc)
    for moment in (1, "1", now, now.replace(tzinfo=None)):
        with steel_batch.open_store(tmp_path, as_of=moment) as store:
            assert store.sql("SELECT count(*) FROM predictions").fetchall() == [(8,)]
    with pytest.raises(ConfigError, match="begins at"):
        steel_batch.open_store(tmp_path, as_of=datetime.date(2020, 1, 1))


def test_values_of_another_type_are_errors_of_ours(tmp_path: Path) -> None:
    for url in (None, 3, b"store"):
        with pytest.raises(ConfigError, match="expected a folder or s3://bucket/prefix"):
            steel_batch.open_store(url)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="contains '%20'"):
        steel_batch.open_store(tmp_path / "a%20b")
    wrong: list[tuple[str, Any, str]] = [
        ("date", datetime.date(2026, 11, 21), "expected str"),
        ("max_bad", "a", "expected float"),
        ("shard_images", "512", "expected int"),
        ("batch_size", 1.5, r"expected int \| None"),
        ("store", tmp_path, "expected str"),
    ]
    for name, value, expected in wrong:
        settings: dict[str, Any] = {"images": "lake", "store": "store", name: value}
        with pytest.raises(ConfigError, match=f"{name} is .*, {expected}"):
            steel_batch.ScoreConfig(**settings)


def test_a_plan_says_what_a_run_would_read(tmp_path: Path, tiny_engine: Path) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=6)
    config = score_config(images, store, tiny_engine)
    assert isinstance(config, steel_batch.ScoreConfig)
    (planned,) = steel_batch.plan(config)
    assert (planned.date, planned.num_images, planned.num_committed) == (DATE, 6, 0)
    assert not (tmp_path / "store").exists()
    engine = score_without_ray(images, store).engine
    (after,) = steel_batch.plan(score_config(images, store, tiny_engine))
    assert after.engine == engine == planned.engine
    assert (after.num_images, after.num_committed) == (0, 6)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_can_be_had_by_a_call(tmp_path: Path, tiny_engine: Path) -> None:
    images, store = Lake(str(tmp_path / "images")), Lake(str(tmp_path / "store"))
    fill_lake(images, num_images=4)
    seen: list[object] = []
    (result,) = steel_batch.score(score_config(images, store, tiny_engine), seen.append)
    assert isinstance(result, steel_batch.RunResult)
    assert (result.num_scored, result.committed) == (4, True)
    assert seen
