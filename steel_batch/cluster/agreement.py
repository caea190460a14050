"""What every node that works for a run must have in common with the machine of the command.

A node may join at any time, installed and mounted by other hands. So each process looks at its own
node when it begins to work, instead of the driver at all nodes before.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steel_batch.engine.installed import installed
from steel_batch.errors import ConfigError, MachineError, SteelBatchError
from steel_batch.lake import Lake

MAX_ENTRIES: Final = 64
"""Names of a folder that are remembered; one that is seen is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was found on the machine of the command. Ray ships it to the nodes."""

    install: str
    """See `installed`."""
    host: str
    folders: Mapping[str, tuple[str, ...]]
    """Per folder that is not in an object store, some names of what lies in it."""

    @classmethod
    def of_this_machine(cls, *lakes: Lake) -> Agreement:
        """What this machine has.

        Args:
            lakes: Where a run reads and writes. Those in S3 are the same for every machine.
        """
        folders = {Path(lake.url) for lake in lakes if not lake.is_s3}
        return cls(
            install=installed(),
            host=platform.node(),
            folders={str(folder): _names_in(folder) for folder in folders},
        )

    def check(self) -> None:
        """Make sure that this machine has the same.

        Raises:
            MachineError: It has another steel-batch, or lacks a folder: what is not mounted looks
                like an empty folder, and its images like images that are gone.
        """
        if self.install != installed():
            raise MachineError(
                f"steel-batch {installed()} is installed here, and {self.install} on {self.host}, "
                "where the command runs. Install the same one on every node and start Ray again."
            )
        for folder, names in self.folders.items():
            if names and not any((Path(folder) / name).exists() for name in names):
                raise MachineError(
                    f"nothing is here of what the folder {folder} has on {self.host}, where the "
                    f"command runs, such as {names[0]!r}. Mount it at the same path on every node, "
                    "or keep images and store in S3."
                )

    def blame(self, error: SteelBatchError) -> SteelBatchError:
        """The same error, with this node's name where it is another one than the command's.

        There, what a flag asks for may be right and only this node without it.
        """
        here = platform.node()
        if here == self.host:
            return error
        kind = MachineError if type(error) is ConfigError else type(error)
        return kind(f"on node {here}: {error.message}")


def _names_in(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():  # a manifest's file, or a store that is not made yet
        return ()
    return tuple(path.name for path in itertools.islice(folder.iterdir(), MAX_ENTRIES))
