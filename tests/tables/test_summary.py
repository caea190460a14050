"""Class summaries against plain Python over the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steel_batch import layout, schema
from steel_batch.errors import LakeError
from steel_batch.tables.columns import COLUMNS
from steel_batch.tables.summary import FIELDS, summarize
from tests.conftest import examples
from tests.made_up_run import CLASSES, image_keys, made_up_row


def summarized(
    rows: Sequence[dict[str, Any]], classes: Sequence[str] = CLASSES, **sizes: int
) -> Any:
    table = pa.Table.from_pylist(list(rows), schema=FIELDS)
    return summarize(table.to_batches(max_chunksize=7), classes, "the run", **sizes)


def nearest_rank(values: Sequence[int], share: float) -> int:
    """The least value that at least this share of the values does not exceed."""
    return sorted(values)[max(1, math.ceil(round(share * len(values), 9))) - 1]


def by_hand(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same summary by loops."""
    found = []
    for line in sorted({row["line"] for row in rows}, key=lambda name: (name is not None, name)):
        images = [row for row in rows if row["line"] == line]
        for class_id, name in enumerate(CLASSES, start=1):
            defects = [d for row in images for d in row["defects"] if d["class_id"] == class_id]
            areas = [d["area_px"] for d in defects]
            bins = [0] * 20
            for row in images:
                peak = np.float32(row["peak"][class_id - 1])
                bins[max(0, min(19, int(np.floor(peak * np.float32(20)))))] += 1
            found.append(
                {
                    "line": line,
                    "class_id": class_id,
                    "class_name": name,
                    "run_id": "the run",
                    "num_images": len(images),
                    "num_defective": len(areas),
                    "defect_rate": pytest.approx(len(areas) / len(images)),
                    "area_sum_px": sum(areas),
                    "area_mean_px": pytest.approx(sum(areas) / len(areas)) if areas else None,
                    "area_p50_px": nearest_rank(areas, 0.5) if areas else None,
                    "area_p95_px": nearest_rank(areas, 0.95) if areas else None,
                    "num_components": sum(d["num_components"] for d in defects),
                    "peak_histogram": bins,
                }
            )
    return found


def test_counts_and_sums_are_those_of_the_rows() -> None:
    rows = [made_up_row(key, "r") for key in image_keys(300, lines=("1", "2", None))]
    found = summarized(rows, chunk_rows=10)  # so few that counts are added up in between
    assert found.schema.equals(schema.CLASS_SUMMARIES)
    assert found.to_pylist() == by_hand(rows)
    assert found["num_defective"].to_pylist() != [0] * 12


defects = st.dictionaries(
    st.integers(1, 4), st.tuples(st.integers(1, 2**31 - 1), st.integers(1, 30_000)), max_size=4
)
peaks = st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4)


@given(
    images=st.lists(st.tuples(st.sampled_from(["a", "b", None]), defects, peaks), max_size=25),
    chunk_rows=st.integers(1, 30),
)
@settings(deadline=None, max_examples=examples(25))
def test_any_rows_in_any_chunks_are_summed_up_as_by_hand(
    images: list[tuple[str | None, dict[int, tuple[int, int]], list[float]]], chunk_rows: int
) -> None:
    rows = []
    for number, (line, found, peak) in enumerate(images):
        base = made_up_row(f"k{number}", "r")
        described = [
            {"class_id": c, "rle": "1 1", "area_px": area, "num_components": parts,
             "bbox": {"x": 0, "y": 0, "w": 1, "h": 1}, "peak": 0.5}
            for c, (area, parts) in found.items()
        ]  # fmt: skip
        rows.append(
            {**base, "line": line, "peak": peak, "defects": described,
             "has_defect": bool(described)}
        )  # fmt: skip
    assert summarized(rows, chunk_rows=chunk_rows).to_pylist() == by_hand(rows)


@pytest.mark.parametrize("num", [1, 2, 3, 19, 20, 21, 100, 101])
def test_quantiles_are_values_that_occurred_and_exact(num: int) -> None:
    areas = [1000 + 7 * i * i for i in range(num)]
    rows = [
        {**made_up_row(f"1/{i}", "r"), "has_defect": True, "defects": [defect(area)]}
        for i, area in enumerate(areas)
    ]
    first = summarized(rows).to_pylist()[0]
    assert first["area_p50_px"] == nearest_rank(areas, 0.5)
    assert first["area_p95_px"] == nearest_rank(areas, 0.95)


def test_the_median_of_two_areas_is_the_smaller_as_its_description_says() -> None:
    rows = [
        {**made_up_row(f"1/{area}", "r"), "has_defect": True, "defects": [defect(area)]}
        for area in (10, 30)
    ]
    first = summarized(rows).to_pylist()[0]
    assert (first["area_p50_px"], first["area_p95_px"]) == (10, 30)
    described = COLUMNS[layout.CLASS_SUMMARIES]
    assert described["area_p50_px"].meaning == "lower median of the same areas: a measured area"
    assert described["area_p95_px"].meaning.endswith(": a measured area")


def defect(area: int) -> dict[str, Any]:
    return {
        "class_id": 1,
        "rle": "1 1",
        "area_px": area,
        "num_components": 1,
        "bbox": {"x": 0, "y": 0, "w": 1, "h": 1},
        "peak": 0.5,
    }


def test_the_histogram_is_over_all_images_also_those_without_a_defect() -> None:
    peaks = [0.0, 0.049, 0.051, 0.5, 0.949, 0.951, 1.0]
    rows = [
        {**made_up_row(f"1/{i}", "r"), "peak": [p] * 4, "defects": [], "has_defect": False}
        for i, p in enumerate(peaks)
    ]
    expected = [0] * schema.PEAK_BINS
    for at in (0, 0, 1, 10, 18, 19, 19):
        expected[at] += 1
    for entry in summarized(rows).to_pylist():
        assert entry["peak_histogram"] == expected
        assert (entry["num_images"], entry["num_defective"]) == (7, 0)
        assert (entry["area_mean_px"], entry["area_p50_px"], entry["area_p95_px"]) == (None,) * 3


def test_a_line_or_class_without_a_defect_has_its_row_all_the_same() -> None:
    rows = [{**made_up_row(f"{line}/x", "r"), "defects": [], "has_defect": False}
            for line in ("1", "-")]  # fmt: skip
    found = summarized(rows).to_pylist()
    assert [(row["line"], row["class_name"]) for row in found] == [
        (line, name) for line in (None, "1") for name in CLASSES
    ]


def test_no_rows_give_no_summary() -> None:
    assert summarize([], CLASSES, "r").num_rows == 0


def test_one_class_is_enough_and_eight_are_not_too_many() -> None:
    for num in (1, 8):
        names = [f"c{i}" for i in range(num)]
        row = {**made_up_row("1/x", "r"), "peak": [0.5] * num, "defects": [], "has_defect": False}
        found = summarized([row], names).to_pylist()
        assert [entry["class_name"] for entry in found] == names


def test_an_error_of_the_store_is_raised_as_it_is() -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from pa.Table.from_pylist([made_up_row("1/a.jpg", "r")], schema=FIELDS).to_batches()
        raise LakeError("the bucket is gone.")

    with pytest.raises(LakeError, match=r"^the bucket is gone\.$"):
        summarize(failing(), CLASSES, "r")
