"""Opens the GPU of a process of Ray before the process loads what scores.

Ray tells a process its GPUs first, and then has it load Ray Data and the actor's class, most of a
second. A CUDA context takes as long, and needs no interpreter. So on a cluster of a command's own,
each process loads this module when it starts (`own_head`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ray._private.accelerators import NvidiaGPUAcceleratorManager

_assign = NvidiaGPUAcceleratorManager.set_current_process_visible_accelerator_ids


def _assign_and_open(ids: Sequence[Any]) -> None:
    _assign(ids)
    if ids:
        threading.Thread(target=_open, name="open GPU", daemon=True).start()


def _open() -> None:
    from steel_batch.engine.gpu import open_early  # not in processes without a GPU

    open_early()


NvidiaGPUAcceleratorManager.set_current_process_visible_accelerator_ids = staticmethod(
    _assign_and_open
)
