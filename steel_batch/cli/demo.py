"""`steel-batch demo`: generate images, score them and query the results, in a minute."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from steel_batch.cli.output import configure_logging, console, naming, say
from steel_batch.cli.progress import progress_line
from steel_batch.cli.query import show_table
from steel_batch.cli.score import show_result
from steel_batch.config import ScoreConfig
from steel_batch.images.decode import decode_gray
from steel_batch.lake import Lake, ReadRequest
from steel_batch.pipeline.score import score
from steel_batch.registry.versions import load_engine
from steel_batch.report.contact_sheet import contact_sheet
from steel_batch.synthetic.writer import write_lake
from steel_batch.tables.query import run_query

DATE = "2026-11-21"
MADE = {"lake", "store", "worst.png"}
"""What a demo writes, and the next demo in the same folder deletes."""
PATTERN = "line={line}/date={date}/{image_id}.jpg"
QUESTION = """\
SELECT line, class_name, num_images AS images, num_defective AS defective,
       round(100 * defect_rate, 1) AS percent, area_p50_px
FROM class_summaries ORDER BY line, class_id"""
WORST = """\
SELECT image_key, defects FROM predictions WHERE has_defect
ORDER BY list_sum(list_transform(defects, lambda d: d.area_px)) DESC LIMIT 8"""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    metavar="FOLDER",
    help="Folder for images, store and picture.",
)
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Number of images to generate.",
)
def demo(out: Path, num_images: int) -> None:
    """Generate strip images, score them, query the results and picture the worst.

    Everything is written to --out. A previous demo in that folder is deleted first.
    """
    configure_logging(False)
    with naming("--out", out):
        is_demo = not out.exists() or (out.is_dir() and {p.name for p in out.iterdir()} <= MADE)
        if not is_demo:
            raise click.UsageError(
                f"--out {out} contains files that are not from a demo. Give an empty or new folder."
            )
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
    lake, store = Lake(str(out / "lake")), Lake(str(out / "store"))
    with console.status(f"generating {num_images} strip images"):
        made = write_lake(lake, num_images=num_images, seed=7, lines=["1", "2"], dates=[DATE])
    say(f"generated {made.num_images} strip images in {made.out}\n")
    with progress_line() as observe:
        config = ScoreConfig(
            images=lake.url, key_pattern=PATTERN, date=DATE, store=store.url, shard_images=16
        )
        (result,) = score(config, observe)
    show_result(result, store)
    console.print(f"\n{QUESTION}\n", style="dim")
    show_table(run_query(store, QUESTION))
    worst = run_query(store, WORST).to_pylist()
    if not worst:
        console.print("\nno image has a defect, so no picture was made")
        return
    keys = [ReadRequest(key=row["image_key"]) for row in worst]
    contents = [decode_gray(data) for data in lake.read_many(keys) if isinstance(data, bytes)]
    sheet = out / "worst.png"
    picture = contact_sheet(worst, contents, load_engine("demo", store=None).card.classes)
    with naming("--out", sheet):
        sheet.write_bytes(picture)
    say(f"\nthe images with the largest defects, outlined: {sheet}")
