"""Compile an engine on a GPU node: `ray job submit -- python -m jobs.build_engine … --store …`.

Takes the flags of `steel-batch build-engine`. `--entrypoint-num-gpus 1` of `ray job submit` has it
run where a GPU is.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("build-engine")
