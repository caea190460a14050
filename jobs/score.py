"""Score a lake's images: `ray job submit -- python -m jobs.score --images … --store …`.

Takes the flags of `steel-batch score`.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("score")
