"""Arrays are those that `pa.array` makes, and are made without pandas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steel_batch.sources.arrays import (
    flags_in,
    numbers_in,
    of_flags,
    of_numbers,
    of_texts,
    scalar_of,
)

SLICE = st.tuples(st.integers(0, 20), st.integers(0, 20))


@given(st.lists(st.none() | st.text(max_size=5), max_size=20))
def test_texts_are_those_of_pyarrow(texts: list[str | None]) -> None:
    found = of_texts(texts)
    found.validate(full=True)
    assert found.equals(pa.array(texts, pa.string()))


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        of_texts(["a", "\ud800"])


@given(st.lists(st.booleans() | st.none(), max_size=20), SLICE)
def test_flags_are_those_of_pyarrow_and_null_is_false(
    flags: list[bool | None], part: tuple[int, int]
) -> None:
    array = pa.array(flags, pa.bool_()).slice(*part)
    expected = [bool(flag) for flag in array.to_pylist()]
    assert flags_in(array).tolist() == expected
    assert of_flags(np.array(expected, np.bool_)).to_pylist() == expected


@given(st.lists(st.integers(-9, 9), max_size=20), SLICE, st.sampled_from(["<i4", "<i8", "<f8"]))
def test_numbers_are_those_of_pyarrow(numbers: list[int], part: tuple[int, int], kind: str) -> None:
    values = np.array(numbers, kind)
    array = of_numbers(values)
    assert array.equals(pa.array(values))
    assert numbers_in(array.slice(*part)).tolist() == array.slice(*part).to_pylist()


@pytest.mark.parametrize("value", ["", "é", 0, 2**63 - 1, True, False])
def test_scalars_are_those_of_pyarrow(value: str | int) -> None:
    assert scalar_of(value).equals(pa.scalar(value))
    assert scalar_of(None).equals(pa.scalar(None))


_PLAN = """
import sys
from pathlib import Path
from steel_batch.runs.planning import build_plan
from steel_batch.sources.open import open_source

folder = Path(sys.argv[1])
for images in (folder / "m.csv", folder):
    source = open_source(str(images), "line={line}/date={date}/{image_id}.jpg")
    settings = {"shard_images": 2, "shard_bytes": 1 << 20, "rescore_changed": False}
    print(build_plan(source.select("2026-11-21"), settings, folder / "plan").num_images)
print("pandas" in sys.modules)
"""


_BIND = "import duckdb, sys; duckdb.execute('SELECT ?', [1]); print('pandas' in sys.modules)"


def test_planning_does_not_import_pandas(tmp_path: Path) -> None:
    duckdb = subprocess.run([sys.executable, "-c", _BIND], capture_output=True, text=True)
    if duckdb.stdout != "False\n":
        pytest.skip("this version of DuckDB imports pandas itself, for a parameter of a query")
    keys = [f"line={n % 2}/date=2026-11-21/{n}.jpg" for n in range(5)]
    for key in keys:
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(b"x")
    rows = [f"{key},{n + 1},{n:032},blue" for n, key in enumerate(keys)]
    (tmp_path / "m.csv").write_text("\n".join(["key,size,etag,camera", *rows]))
    done = subprocess.run(
        [sys.executable, "-c", _PLAN, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "5\n5\nFalse\n", done.stderr
