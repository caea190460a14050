"""Score an archive: `ray job submit -- python -m jobs.backfill --images … --from … --to …`.

Takes the flags of `steel-batch backfill`.
"""

from steel_batch.cli import run
from steel_batch.cli.backfill import backfill

if __name__ == "__main__":
    run(backfill)
