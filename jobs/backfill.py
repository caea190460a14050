"""Score an archive: `ray job submit -- python -m jobs.backfill --images … --from … --to …`.

Takes the flags of `steel-batch backfill`.
"""

from steel_batch.cli import main

if __name__ == "__main__":
    main("backfill")
