"""Compile an engine on a GPU node: `ray job submit -- python -m jobs.build_engine … --store …`.

Takes the flags of `steel-batch build-engine`. `--entrypoint-num-gpus 1` of `ray job submit` has it
run where a GPU is.
"""

from steel_batch.cli import run
from steel_batch.cli.build_engine import build_engine

if __name__ == "__main__":
    run(build_engine)
