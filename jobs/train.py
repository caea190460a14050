"""Train and register: `ray job submit -- python -m jobs.train --images … --store … --model …`.

Takes the flags of `steel-batch train`.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("train")
