"""Score on two Ray nodes and kill one of them: `python -m tests.pipeline.two_nodes CONFIG.json`."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from pathlib import Path

import ray

from steel_batch.lake import Lake
from tests.conftest import config_of, run_score
from tests.forked_worker import WORKER_PATH
from tests.small_nodes import lose, small_head, small_worker

HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
}
"""A node that is gone is noticed after 3 seconds instead of 15, one that is slow after 25."""


def main() -> None:
    config = config_of(json.loads(Path(sys.argv[1]).read_text()))
    store = Lake(config.store, endpoint_url=config.endpoint_url)
    with (
        contextlib.redirect_stdout(sys.stderr),  # Ray tells there of lost nodes, some of it late
        small_head(num_cpus=2, worker_path=WORKER_PATH, _system_config=HEALTH_CHECKS) as head,
        small_worker(head, num_cpus=2, worker_path=WORKER_PATH) as victim,
    ):
        ray.init(address=head.address, log_to_driver=False)
        killed: list[int] = []

        def kill() -> None:
            while True:
                receipts = [o for o in store.list_objects("runs/") if "/receipts/" in o.key]
                if len(receipts) >= 3:
                    break
                time.sleep(0.02)
            killed.append(len(receipts))
            lose(victim)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        result = run_score(config)
        ray.shutdown()
    print(json.dumps({**result.to_json(), "receipts_when_killed": killed}))


if __name__ == "__main__":
    main()
