"""Compile an engine on a GPU node: `ray job submit --entrypoint-num-gpus 1 -- python jobs/…`.

Takes the flags of `steel-batch build-engine`.
"""

from steel_batch.cli import run
from steel_batch.cli.build_engine import build_engine

if __name__ == "__main__":
    run(build_engine)
