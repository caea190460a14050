from __future__ import annotations

import logging

import pytest

from steel_batch.engine.machine import open_logger

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="has no wheel for this machine")

OF_ANOTHER_MODEL = (
    "Using an engine plan file across different models of devices is not recommended and is likely "
    "to affect performance or even cause errors."
)


@pytest.mark.parametrize(
    ("message", "level"),
    [(OF_ANOTHER_MODEL, logging.WARNING), ("weights are subnormal", logging.DEBUG)],
)
def test_of_tensorrts_warnings_the_one_of_another_gpus_plan_is_one_of_ours(
    message: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "steel_batch.engine.machine")
    open_logger(trt).log(trt.ILogger.Severity.WARNING, message)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (level, f"TensorRT: {message}")
    ]
