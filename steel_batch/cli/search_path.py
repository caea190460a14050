"""Python's import path, without the folder that a command is run in.

``python -m`` puts the working folder first, and an empty or relative entry of ``PYTHONPATH`` means
it too. A command that runs in a lake would then import a file such as ``cv2.py`` that somebody left
there. This module imports nothing that is not loaded already, because it runs before all others.
"""
# ruff: noqa: PTH100, PTH109, PTH117, PTH120

from __future__ import annotations

import os
import sys
from typing import Final

_HOME: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The trusted folder that this package was loaded from."""


def leave_out_working_folder() -> None:
    """Make this process and its children import nothing from the working folder.

    Absolute entries of ``PYTHONPATH`` are kept, and so is the folder that this package was loaded
    from. Children may be started in another folder, so the interpreter's path becomes absolute.
    """
    said = os.environ.get("PYTHONPATH")
    entries = said.split(os.pathsep) if said else []
    kept = [entry for entry in entries if os.path.isabs(entry)]
    try:
        here = os.getcwd()
        if sys.executable and not os.path.isabs(sys.executable):  # an entry of PATH is
            sys.executable = os.path.abspath(sys.executable)
    except OSError:  # the working folder was deleted
        here = ""
    is_first = not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [here])
    if is_first and here != _HOME:
        del sys.path[0]
    left_out = {os.path.abspath(e) for e in entries if not os.path.isabs(e)} - {_HOME, *kept}
    sys.path[:] = [entry for entry in sys.path if entry not in left_out]
    if here == _HOME and _HOME not in kept:
        kept.append(_HOME)  # a source tree that is not installed
    unsaid = [entry for entry in entries if entry and os.path.abspath(entry) in left_out]
    if unsaid:
        print(
            f"Warning: PYTHONPATH contains relative paths: {', '.join(map(repr, unsaid))}. Nothing "
            "is imported from the working folder; give absolute paths.",
            file=sys.stderr,
        )
    if kept:
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    else:
        os.environ.pop("PYTHONPATH", None)
