"""Names in lakes that are never images, whatever the key pattern is.

Two kinds. Names that cannot be opened here: an S3 key may have an empty part, ``.``, ``..`` or a
backslash, and a file's name need not be UTF-8. And files that operating systems and file servers
write next to images: ``._a.jpg`` is not a picture but metadata of macOS.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from steel_batch.lake import why_unusable

_FILES: Final = frozenset({".ds_store", "thumbs.db", "desktop.ini", "icon\r"})
_FOLDERS: Final = (
    r"__macosx|\.appledouble|\.applesingle|\.appledb|\.appledesktop|\.spotlight-v100|\.fseventsd"
    r"|\.temporaryitems|\.documentrevisions-v100|\.trash(?:es|-[0-9]+)?|\$recycle\.bin"
    r"|system volume information|lost\+found|@eadir|#recycle|#snapshot|@recycle|\.@__thumb"
    r"|\.snapshots?|\.thumbnails|\.ipynb_checkpoints|paxheaders?(?:\.[0-9]+)?"
    r"|~snapshot|\.zfs|\.stversions|\.dropbox\.cache|\.picasaoriginals|\.xvpics|\.~tmp~"
    r"|\.rsync-partial|_delta_log|_temporary|_spark_metadata"
)
"""Folders of macOS, Windows, Linux desktops, Jupyter, file servers (Synology, QNAP, NetApp, ZFS),
programs that copy files or edit images, tar headers that an old tool unpacked as files, and what
Delta and Spark keep next to Parquet files."""
_FOLDER: Final = re.compile(_FOLDERS, re.IGNORECASE)
_FIRST: Final = frozenset("._$@#~sSlLpP")
"""First characters of those names."""
SUSPECT: Final = (
    r"(?s)(?:\A|/)(?:\.{0,2}(?:/|\z)|\._|(?i:\.ds_store|thumbs\.db|desktop\.ini|icon\r)\z|(?i:"
    + _FOLDERS
    + r")(?:/|\z))|[\\\x00]"
)
"""An expression of RE2 that every key with a `stray_reason` contains, and hardly any other."""


def stray_reason(key: str) -> str | None:
    """Why an object or folder of a lake is skipped, as a phrase; None if it is not.

    Args:
        key: Relative to the lake's root, without a '/' at the end.
    """
    reason = why_unusable(key)
    return by_product_reason(key) if reason is None else reason


def by_product_reason(name: str) -> str | None:
    """Why a file, or a member of a tar, is a by-product of some software; None if it is not."""
    folder, _, file = name.rpartition("/")
    if file.startswith("._"):
        return "names that begin with '._' are companion files of macOS"
    if file.lower() in _FILES:
        return "it is a file of the operating system"
    if _is_in_their_folder(folder) or (file[:1] in _FIRST and _FOLDER.fullmatch(file)):
        return "it is a folder that an operating system, file server or table format keeps"
    return None


@functools.lru_cache(maxsize=4096)
def _is_in_their_folder(folder: str) -> bool:
    """Whether a part of a path is such a folder; cached, as many files share one."""
    return any(part[:1] in _FIRST and _FOLDER.fullmatch(part) for part in folder.split("/"))
