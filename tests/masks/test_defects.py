"""Defects against a flood fill over pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steel_batch import schema
from steel_batch.masks.defects import MAX_COMPONENTS, describe_defects
from steel_batch.masks.rle import decode_rle
from steel_batch.registry.card import PostProcess
from steel_batch.synthetic import render
from tests.conftest import examples

Mask = npt.NDArray[np.uint8]


def flood_fill(mask_HW: Mask) -> list[list[tuple[int, int]]]:
    """The pixels of each component, corners included, from left to right and down."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask_HW), strict=True)}
    components = []
    for seed in sorted(left):
        if seed not in left:
            continue
        left.remove(seed)
        component, border = [seed], [seed]
        while border:
            y, x = border.pop()
            for near in [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    component.append(near)
                    border.append(near)
        components.append(component)
    return components


@dataclass(frozen=True)
class Expected:
    class_id: int
    mask_HW: Mask
    num_components: int
    box: tuple[int, int, int, int]


def plain_defects(bitmask_HW: Mask, post: PostProcess) -> list[Expected]:
    found = []
    for c in range(len(post.min_area_px)):
        all_px = int((bitmask_HW >> c & 1).sum())
        kept = [
            component
            for component in flood_fill((bitmask_HW >> c & 1).astype(np.uint8))
            if len(component) >= post.min_component_px[c]
        ]
        mask_HW = np.zeros_like(bitmask_HW)
        for y, x in (pixel for component in kept for pixel in component):
            mask_HW[y, x] = 1
        if not kept or all_px < post.min_area_px[c] or mask_HW.sum() < post.min_area_px[c]:
            continue
        rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
        box = (
            int(columns[0]),
            int(rows[0]),
            int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1),
        )
        found.append(Expected(c + 1, mask_HW, len(kept), box))
    return found


def describe_all(
    masks_HW: list[Mask], post: PostProcess, *, engine_px: int | None = None
) -> list[list[dict[str, Any]]]:
    """As the pipeline calls it: counts and peaks as the engine gives them."""
    engine_px = engine_px or masks_HW[0].size
    classes = range(len(post.min_area_px))
    count_NC = np.array([[(m >> c & 1).sum() for c in classes] for m in masks_HW], np.float32)
    peak_C = np.linspace(0.5, 0.9, len(classes), dtype=np.float32)
    defects = describe_defects(
        masks_HW, np.tile(peak_C, (len(masks_HW), 1)), count_NC, post, engine_px=engine_px
    )
    defects.validate(full=True)
    assert defects.type.value_type == schema.DEFECT
    return list(defects.to_pylist())


def describe(bitmask_HW: Mask, post: PostProcess) -> list[dict[str, Any]]:
    (defects,) = describe_all([bitmask_HW], post)
    return defects


def post_process(num_classes: int, area: int = 0, component: int = 0) -> PostProcess:
    return PostProcess(
        min_area_px=(area,) * num_classes, min_component_px=(component,) * num_classes
    )


def assert_as_flood_fill_says(bitmask_HW: Mask, post: PostProcess) -> None:
    height, width = bitmask_HW.shape
    defects, expected = describe(bitmask_HW, post), plain_defects(bitmask_HW, post)
    assert [d["class_id"] for d in defects] == [e.class_id for e in expected]
    for defect, plain in zip(defects, expected, strict=True):
        np.testing.assert_array_equal(decode_rle(defect["rle"], height, width), plain.mask_HW)
        assert defect["area_px"] == plain.mask_HW.sum()
        assert defect["num_components"] == plain.num_components
        assert tuple(defect["bbox"].values()) == plain.box


@settings(max_examples=examples(300), deadline=None)
@given(
    bitmask_HW=hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16).flatmap(
        lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 255), fill=st.just(0))
    ),
    num_classes=st.integers(1, 8),
    area=st.integers(0, 12),
    component=st.integers(0, 6),
)
def test_small_masks_are_described_as_a_flood_fill_would(
    bitmask_HW: Mask, num_classes: int, area: int, component: int
) -> None:
    bitmask_HW = bitmask_HW & np.uint8(2**num_classes - 1)
    assert_as_flood_fill_says(bitmask_HW, post_process(num_classes, area, component))


@pytest.mark.parametrize("density", [0.02, 0.2, 0.4, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("component", [0, 3, 50])
def test_noise_of_any_density_is_described_as_a_flood_fill_would(
    density: float, component: int
) -> None:
    rng = np.random.default_rng(int(density * 100))
    bits_CHW = (rng.random((2, 37, 53)) < density).astype(np.uint8)
    assert_as_flood_fill_says(bits_CHW[0] | bits_CHW[1] << 1, post_process(2, 5, component))


@pytest.mark.parametrize("index", range(3))
def test_synthetic_strips_are_described_as_a_flood_fill_would(index: int) -> None:
    bitmask_HW = next(
        strip.bitmask_HW for i in range(50) if (strip := render(40 + index, i)).bitmask_HW.any()
    )
    assert_as_flood_fill_says(bitmask_HW, post_process(4, 100, 30))


def spiral() -> Mask:
    mask_HW = np.zeros((33, 33), np.uint8)
    y = x = 0
    mask_HW[0, 0] = 1
    lengths = [32, 32, 32, 30, 30, 28, 28, 26, 26, 24, 24, 22, 22]
    for i, length in enumerate(lengths):
        dy, dx = [(0, 1), (1, 0), (0, -1), (-1, 0)][i % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            mask_HW[y, x] = 1
    return mask_HW


SHAPES = {
    "spiral": spiral(),
    "comb open below": np.pad(np.tile(np.array([[1, 0]], np.uint8), (9, 10)), ((1, 0), (0, 0)),
                              constant_values=1),
    "comb open above": np.pad(np.tile(np.array([[1, 0]], np.uint8), (9, 10)), ((0, 1), (0, 0)),
                              constant_values=1),
    "diagonal": np.eye(20, dtype=np.uint8),
    "other diagonal": np.eye(20, dtype=np.uint8)[::-1],
    "checkers": (np.indices((12, 13)).sum(axis=0) % 2).astype(np.uint8),
    "one row": np.array([[1, 1, 0, 1, 0, 0, 1]], np.uint8),
    "one column": np.array([[1, 1, 0, 1, 0, 0, 1]], np.uint8).T,
    "bottom and next top": np.array([[0, 1], [0, 0], [0, 0], [1, 0]], np.uint8),
    "run over a column's end": np.array([[0, 1], [0, 0], [1, 0], [1, 0]], np.uint8),
    "everything": np.ones((8, 9), np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("component", [0, 2, 12])
def test_shapes_that_mislead_are_described_as_a_flood_fill_would(name: str, component: int) -> None:
    assert_as_flood_fill_says(SHAPES[name], post_process(1, component=component))


def test_shapes_are_what_they_are_called() -> None:
    count = {name: describe(mask, post_process(1))[0]["num_components"] for name, mask in
             SHAPES.items()}  # fmt: skip
    assert count["spiral"] == count["diagonal"] == count["checkers"] == count["everything"] == 1
    assert count["comb open below"] == count["comb open above"] == 1
    assert count["bottom and next top"] == count["run over a column's end"] == 2
    assert count["one row"] == count["one column"] == 3


def test_each_class_has_limits_and_a_peak_of_its_own() -> None:
    bitmask_HW = np.zeros((10, 40), np.uint8)
    bitmask_HW[2:5, 3:7] = 0b11
    bitmask_HW[8, 30:32] = 0b11
    post = PostProcess(min_area_px=(13, 1), min_component_px=(1, 3))
    first, second = describe(bitmask_HW, post)
    assert (first["area_px"], first["num_components"]) == (14, 2)
    assert first["bbox"] == {"x": 3, "y": 2, "w": 29, "h": 7}
    assert (second["area_px"], second["num_components"]) == (12, 1)
    assert second["bbox"] == {"x": 3, "y": 2, "w": 4, "h": 3}
    assert (first["peak"], second["peak"]) == (0.5, pytest.approx(0.9))
    stricter = PostProcess(min_area_px=(15, 13), min_component_px=(1, 3))
    assert describe(bitmask_HW, stricter) == []


def test_a_class_without_a_count_is_not_looked_at() -> None:
    bitmask_HW = np.full((4, 4), 0b11, np.uint8)
    peak_NC, count_NC = np.array([[0.9, 0.9]], np.float32), np.array([[0, 16]], np.float32)
    given: dict[str, Any] = {"post_process": post_process(2), "engine_px": 16}
    ((defect,),) = describe_defects([bitmask_HW], peak_NC, count_NC, **given).to_pylist()
    assert defect["class_id"] == 2
    assert describe_defects([bitmask_HW], peak_NC, count_NC * 0, **given).to_pylist() == [[]]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_least_area_is_the_same_share_of_an_image_of_any_size(scale: int) -> None:
    small_HW = np.zeros((20, 30), np.uint8)
    small_HW[2:6, 3:8] = 1  # 20 pixels
    small_HW[10:12, 10:14] = 1  # 8 pixels
    mask_HW = np.kron(small_HW, np.ones((scale, scale), np.uint8))
    for area, component, expected in (
        (28, 8, 28), (29, 8, None), (20, 9, 20), (21, 9, None), (0, 20, 20), (0, 21, None),
    ):  # fmt: skip
        post = post_process(1, area=area, component=component)
        (found,) = describe_all([mask_HW], post, engine_px=600)
        areas = [defect["area_px"] for defect in found]
        assert areas == ([] if expected is None else [expected * scale**2])


def test_more_components_than_the_column_holds_are_counted_as_the_most_it_holds() -> None:
    mask_HW = np.zeros((512, 512), np.uint8)
    mask_HW[::2, ::2] = 1
    (defect,) = describe(mask_HW, post_process(1))
    assert MAX_COMPONENTS < 256 * 256
    assert (defect["num_components"], defect["area_px"]) == (MAX_COMPONENTS, 256 * 256)


def test_a_defect_fits_its_column() -> None:
    assert describe(np.ones((4, 5), np.uint8), post_process(1)) == [{
        "class_id": 1, "rle": "1 20", "area_px": 20, "num_components": 1,
        "bbox": {"x": 0, "y": 0, "w": 5, "h": 4}, "peak": 0.5,
    }]  # fmt: skip


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data(), num_classes=st.integers(1, 8), component=st.integers(0, 5))
def test_images_that_are_described_together_are_described_as_each_alone(
    data: st.DataObject, num_classes: int, component: int
) -> None:
    shapes = data.draw(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)
    )
    masks_HW = [
        data.draw(
            hnp.arrays(
                np.uint8, shape, elements=st.integers(0, 2**num_classes - 1), fill=st.just(0)
            )
        )
        for shape in shapes
    ]
    post = post_process(num_classes, 2, component)
    alone = [describe_all([mask_HW], post, engine_px=20)[0] for mask_HW in masks_HW]
    assert describe_all(masks_HW, post, engine_px=20) == alone
