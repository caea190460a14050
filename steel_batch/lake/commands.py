"""Commands that messages suggest, to be pasted into a shell."""

from __future__ import annotations

import shlex

from steel_batch.lake.lake import Lake


def command(store: Lake, *words: str) -> str:
    """A command on a store, in backticks.

    Args:
        store: Its value of ``--store``.
        words: What comes between ``steel-batch`` and ``--store``, unquoted.
    """
    flags = ["--store", store.url]
    if store.endpoint_url:
        flags += ["--endpoint-url", store.endpoint_url]
    return f"`{shlex.join(['steel-batch', *words, *flags])}`"
