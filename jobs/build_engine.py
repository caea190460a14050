"""Compile an engine on a GPU node: `ray job submit -- python -m jobs.build_engine … --store …`.

Takes the flags of `steel-batch build-engine`. Add `--entrypoint-num-gpus 1` to `ray job submit`, so
that it runs on a node with a GPU.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("build-engine")
