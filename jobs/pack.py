"""Pack images into containers: `ray job submit -- python -m jobs.pack --images … --out …`.

Takes the flags of `steel-batch pack`. Works in one process, with threads.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("pack")
