"""What `build-engine` says where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from steel_batch.cli.build_engine import INSTEAD


def test_what_is_missing_comes_with_advice_that_this_command_takes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "steel_batch.cli", "build-engine", "demo", "--store", tmp_path],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(INSTEAD["tensorrt"])
    assert "onnxruntime" not in line
