"""Help that shows a command's options in groups, the most needed ones first."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any, Final

import click

GROUPS: Final = {
    "What to score": (
        "date", "first_date", "last_date", "dates_from_lake", "order", "recheck", "images",
        "key_pattern", "follow_links", "inventory_buckets", "max_images", "bits",
        "allow_other_keys", "rescore_changed", "config",
    ),
    "Where it goes": ("store", "endpoint_url", "unsafe_single_writer", "merge_bytes"),
    "Engine": (
        "engine", "require_signed", "runtime", "precision", "batch_size", "decode_on", "decoder",
    ),
    "Limits": (
        "max_bad", "decode_seconds", "infer_seconds", "limits", "shard_images", "shard_bytes",
        "shard_attempts",
        "max_dates_at_once", "stop_after", "lock_wait_seconds", "lease_seconds", "fresh",
    ),
    "Cluster": ("ray_address", "num_actors", "cpus_per_actor", "actors_per_gpu"),
    "Output": ("output", "verbose", "with_report", "alert_if"),
}  # fmt: skip
"""Options of `score` and of the commands that share them, by parameter name."""


class GroupedCommand(click.Command):
    """A command whose help lists its options in the groups of `GROUPS`.

    Args:
        example: A command line, shown verbatim and indented.
        options: The options of `click.Command`.
    """

    def __init__(self, *, example: str, **options: Any) -> None:
        super().__init__(**options)
        text, lines = inspect.cleandoc(self.help or ""), textwrap.indent(example, "  ")
        self.help = f"{text}\n\n\b\nExample:\n{lines}"

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group; ungrouped options come last."""
        records = {str(option.name): option.get_help_record(ctx) for option in self.get_params(ctx)}
        named = {name for names in GROUPS.values() for name in names}
        rest = tuple(name for name in records if name not in named)
        for title, names in (*GROUPS.items(), ("Other options", rest)):
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
