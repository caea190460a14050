"""What Ray Data sends with each task: the process of a read task loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

SENT = """
import sys
from ray import cloudpickle
from ray.data import DataContext
from steel_batch.cluster import stream
stream._configure_data(1 << 20)
sent = cloudpickle.dumps((DataContext.get_current(), stream.ReadStage))
sys.stdout.buffer.write(sent)
"""
RECEIVED = """
import pickle, sys
import ray.data
context, _ = pickle.load(sys.stdin.buffer)
callbacks = context.custom_execution_callback_classes
print(*[found.__name__ for found in callbacks], *sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


@pytest.mark.ray
def test_a_read_task_loads_neither_the_engines_libraries_nor_what_looks_for_issues() -> None:
    sent = subprocess.run([sys.executable, "-c", SENT], stdout=subprocess.PIPE, check=True).stdout
    unneeded = ["onnxruntime", "steel_batch.engine.runtime", "ray.data._internal.issue_detection"]
    received = subprocess.run(
        [sys.executable, "-c", RECEIVED, *unneeded], input=sent, stdout=subprocess.PIPE, check=True
    )
    assert received.stdout == b"StopWhenAsked ForgetBlockStats\n"
