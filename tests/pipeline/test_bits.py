"""A night of 12-bit images: declared it is the night of their 8-bit twins, else it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steel_batch.errors import PlanMismatchError, TooManyBadImagesError
from steel_batch.lake import Lake
from steel_batch.pipeline.scope import open_scope
from tests.conftest import DATE, band_image, committed_rows, run_score, score_config
from tests.image_files import encode
from tests.score_here import score_here
from tests.tiny_engine import changed, tiny_version

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def key_of(name: str) -> str:
    return f"line=1/date={DATE}/{name}.png"


def test_declared_bits_give_the_rows_of_8_bits_and_others_are_refused(
    tmp_path: Path, tiny_engine: Path
) -> None:
    lakes = [Lake(str(tmp_path / name)) for name in ("eight", "twelve")]
    for i in range(8):
        image_HW = band_image(i)
        lakes[0].write(key_of(f"im{i}"), encode(".png", image_HW))
        lakes[1].write(key_of(f"im{i}"), encode(".tiff", image_HW.astype(np.uint16) << 4))
    stores = [Lake(str(tmp_path / name)) for name in ("store 8", "store 12")]
    score_here(score_config(lakes[0], stores[0], tiny_engine))
    undeclared = score_config(lakes[1], stores[1], tiny_engine)
    with pytest.raises(TooManyBadImagesError):
        score_here(undeclared)
    assert committed_rows(stores[1]) == []
    with pytest.raises(PlanMismatchError, match="bits was None and is now 12"):
        score_here(undeclared.replace(bits=12))
    result = run_score(undeclared.replace(bits=12, fresh=True))
    assert (result.num_scored, result.num_quarantined) == (8, 0)
    rows = [
        [(r["image_key"], r["has_defect"], r["peak"], r["defects"]) for r in committed_rows(store)]
        for store in stores
    ]
    assert sorted(rows[0]) == sorted(rows[1])
    assert any(row[1] for row in rows[0])


@pytest.mark.parametrize(
    ("recipe", "bits", "is_warned"),
    [
        ({"data": {"bits": 12}}, 13, True),
        ({"data": {"bits": 12}}, 12, False),
        ({"data": {"bits": 12}}, None, False),
        ({"data": {"bits": None}}, 12, False),
        ({}, 12, False),
    ],
)
def test_an_engine_that_was_trained_with_other_bits_is_scored_with_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recipe: dict[str, object],
    bits: int | None,
    is_warned: bool,
) -> None:
    card, graphs = tiny_version()
    card = changed(card, recipe=recipe)
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/card.json").write_text(card.to_json())
    (tmp_path / "engine/model.onnx").write_bytes(graphs["fp32"])
    lake, store = Lake(str(tmp_path / "lake")), Lake(str(tmp_path / "store"))
    open_scope(score_config(lake, store, tmp_path / "engine", bits=bits), is_read_only=True)
    said = f"engine {card.name} was trained with --bits 12, but this command has --bits {bits}: "
    assert [message.startswith(said) for message in caplog.messages] == [True] * is_warned


def test_an_image_that_contradicts_is_quarantined_and_mended_with_other_bits(
    tmp_path: Path, tiny_engine: Path
) -> None:
    lake, store = Lake(str(tmp_path / "lake")), Lake(str(tmp_path / "store"))
    for i in range(8):
        lake.write(key_of(f"im{i}"), encode(".png", band_image(i).astype(np.uint16) << 4))
    lake.write(key_of("other"), encode(".png", band_image(9).astype(np.uint16) << 6))
    score_here(score_config(lake, store, tiny_engine, bits=12, max_bad=0.5))
    (bad,) = committed_rows(store, "quarantine")
    assert (bad["image_key"], bad["error_code"]) == (key_of("other"), "wrong_bits")
    greatest = int(band_image(9).max()) << 6
    assert f"greatest value is {greatest}," in str(bad["message"])
    retried = score_config(lake, store, tiny_engine, bits=14, retry_quarantined=True)
    assert score_here(retried).num_scored == 1
    assert len(committed_rows(store)) == 9
    assert committed_rows(store, "quarantine") == []
