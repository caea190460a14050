"""Every error that this package raises on purpose, in one tree.

The branches follow what the caller does about them::

    SteelBatchError
    ├── ConfigError            stop, exit 2: the user changes a flag, a file or the environment
    │   ├── MachineError       stop, exit 1: this machine or cluster lacks what was asked for
    │   ├── InputError         stop, exit 1: what `--images` names is damaged, or has no such images
    │   │   └── NoImagesError  the same: there is nothing of the date
    │   └── PlanMismatchError  stop: an unfinished run has other inputs or settings
    ├── ImageError             quarantine one image and go on
    │   ├── DecodeError        its bytes are no image that we read
    │   ├── ShapeError         it is an image of a size that the engine refuses
    │   └── MaskError          its mask, or the run-length encoding of one, is malformed
    ├── LakeError              stop: the object store says no for good
    │   ├── UnsupportedError   the store does not know this kind of request
    │   ├── MissingObjectError quarantine: the object is gone
    │   ├── ChangedObjectError quarantine: the object is not the one that was planned
    │   ├── LargeObjectError   quarantine: the object has more bytes than are read
    │   ├── NotAFileError      quarantine: a FIFO, a socket or a device stands there
    │   ├── OutsideLakeError   quarantine: a link leads out of the lake, and is not followed
    │   ├── UndecidedStoreError stop: two writers at once would lose each other's writes
    │   ├── FormatError        stop: a newer build wrote a file; it is neither read nor replaced
    │   └── TransientLakeError retry, then fail the shard
    ├── EngineError            stop: the engine's files are missing, damaged or unusable
    │   ├── EngineMismatchError stop before any work: another GPU, runtime or version
    │   └── DeviceError        the GPU failed: this process cannot use it any more, another may
    ├── ClusterError           stop: Ray failed; receipts are kept
    ├── LockHeldError          stop, exit 4: another run holds the (engine, date)
    ├── TooManyBadImagesError  stop, exit 3: nothing is committed, receipts are kept
    └── CommitError            the commit surely failed
        ├── CommitConflictError another writer was first
        │   └── StaleChangeError files to replace were rewritten: make the change again
        └── CommitUnknownError nobody knows: nothing may be deleted, read again

A message says what was found, what was expected and what to do next. Errors cross process
borders (Ray pickles them to the driver), so each takes one positional message and keyword
arguments that have defaults, which is what pickling keeps.
"""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar, Final

IMAGE_CODES: Final = (
    "empty",
    "not_an_image",
    "unsupported_format",
    "truncated",
    "undecodable",
    "too_large",
    "multiple_images",
    "unknown_bits",
    "wrong_bits",
    "wrong_size",
    "crashed_decoder",
    "hung_decoder",
    "missing",
    "changed",
    "not_a_file",
    "unsafe_link",
    "unsafe_name",
    "damaged_container",
    "no_image_column",
)
"""Every code of the quarantine; a decoder that a user brings may have others."""
_ORNAMENT = re.compile(r"\x1b\[[\d;]*m|↳|<\?xml[^>]*>")
_UNUSUAL, _UNUSUAL_IN_LINES = re.compile(r"[^ -~]"), re.compile(r"[^ -~\n]")
_CONTROLS: Final = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SECRET_PARTS = re.compile(
    r"(?P<scheme>[a-z][\w+.-]*)://(?P<login>[^\s/?#'\"<>@]*@)?(?P<path>[^\s?'\"<>]*)"
    r"(?P<query>\?[^\s'\"<>]*)?",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"<Error>.*?<Code>(\w+)</Code>\s*<Message>([^<]*)</Message>.*?</Error>", re.DOTALL
)


class SteelBatchError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: What was found, what was expected, what to do next. Of URLs in it, what may be
            secret is left out: see `redacted`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))

    @property
    def message(self) -> str:
        """The text for the user."""
        return str(self.args[0])


class ConfigError(SteelBatchError):
    """A flag, a configuration file or the environment is wrong."""

    exit_code = 2


class MachineError(ConfigError):
    """This machine or cluster lacks what was asked for: a package, a driver, a GPU, an answer."""

    exit_code = 1


class InputError(ConfigError):
    """What `--images` names cannot be used as it is: the data has to change, not the command."""

    exit_code = 1


class NoImagesError(InputError):
    """There are no images of a date; there may be later."""


class PlanMismatchError(ConfigError):
    """An unfinished run of this engine and date was planned from other inputs or settings."""


class ImageError(SteelBatchError):
    """One image cannot be scored; it is quarantined and the run goes on.

    Args:
        message: What was found and what was expected.
        code: The value of `error_code` in the quarantine table.
    """

    default_code: ClassVar[str] = "bad_image"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class DecodeError(ImageError):
    """The bytes are not an image that can be decoded."""

    default_code = "undecodable"


class ShapeError(ImageError):
    """The image decoded to a size that the engine's `resize` policy refuses."""

    default_code = "wrong_size"


class MaskError(ImageError):
    """A mask or its run-length encoding is malformed."""

    default_code = "bad_mask"


class LakeError(SteelBatchError):
    """The object store refused for good: no such bucket, access denied, disk full."""


class UnsupportedError(LakeError):
    """The object store does not know this kind of request."""


class MissingObjectError(LakeError):
    """There is no object of this key."""


class ChangedObjectError(LakeError):
    """The object's etag or content is not what was asked for."""


class LargeObjectError(LakeError):
    """The object has more bytes than the reader takes, or than there is memory for."""


class NotAFileError(LakeError):
    """What lies there is no regular file: a FIFO, a socket or a device."""


class OutsideLakeError(LakeError):
    """A link leads out of the lake's root, and links out of it are not followed."""


class UndecidedStoreError(LakeError):
    """The store lets two writers of one object both succeed, or refuses to decide between them."""


class FormatError(LakeError):
    """A durable file is of a format that this build does not read; it must not be replaced."""


class TransientLakeError(LakeError):
    """The object store failed in a way that may pass: time-out, 503, reset, short read."""


class EngineError(SteelBatchError):
    """An engine's files are missing, damaged or unusable."""


class EngineMismatchError(EngineError):
    """A compiled plan is for another GPU, TensorRT version or engine than what is here."""


class DeviceError(EngineError):
    """The GPU failed: this process cannot use it any more, another may."""


class ClusterError(SteelBatchError):
    """The Ray cluster failed in a way that no retry of a shard mends."""


class LockHeldError(SteelBatchError):
    """Another run holds the lock of this engine and date."""

    exit_code = 4


class TooManyBadImagesError(SteelBatchError):
    """More images are quarantined than `--max-bad` allows."""

    exit_code = 3


class CommitError(SteelBatchError):
    """A commit surely failed; its rows are not visible."""


class CommitConflictError(CommitError):
    """Another writer committed first; read the table again."""


class StaleChangeError(CommitConflictError):
    """What a commit was to replace is not in the table any more: make the change again."""


class CommitUnknownError(CommitError):
    """Nobody knows whether the commit landed; nothing may be deleted."""


def paragraph_of(error: BaseException) -> str:
    """Another library's message, over several lines, in colour or XML, as one plain line."""
    text = _ANSWER.sub(r"\1 (\2)", _ORNAMENT.sub("", str(error)))
    lines = [line.strip().rstrip(".") for line in text.splitlines()]
    return ": ".join(line for line in lines if line) or type(error).__name__


def redacted(text: str) -> str:
    """A text without what URLs say to those who are let in.

    That is the user and password before a host, and in URLs of the web everything behind ``?``,
    where a presigned one has its signature.
    """
    if "://" not in text:
        return text
    return _SECRET_PARTS.sub(_without_secrets, text)


def _without_secrets(match: re.Match[str]) -> str:
    login = "…@" if match["login"] else ""
    query = match["query"] or ""
    if query and match["scheme"].lower() in ("http", "https"):
        query = "?…"
    return f"{match['scheme']}://{login}{match['path']}{query}"


def printable(text: str, *, lines: bool = True) -> str:
    """A text for a terminal, a log or a page: control characters, which keys may hold, as escapes.

    Marks that change the direction of what follows are among them.

    Args:
        text: From anywhere.
        lines: Whether a line's end is kept, and not shown as an escape, too.
    """
    return (_UNUSUAL_IN_LINES if lines else _UNUSUAL).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    return ascii(char)[1:-1] if unicodedata.category(char) in _CONTROLS else char
