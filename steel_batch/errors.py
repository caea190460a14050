"""Every error that this package raises on purpose, and every code of the quarantine.

The branches follow what the caller does about an error::

    SteelBatchError
    ├── ConfigError            stop, exit 2: the user changes a flag, a file or the environment
    │   ├── MachineError       stop, exit 1: this machine or cluster lacks what is needed
    │   ├── InputError         stop, exit 1: the data at `--images` is damaged or unusable
    │   │   └── NoImagesError  the same: there are no images of the date
    │   └── PlanMismatchError  stop: an unfinished run has other inputs or settings
    ├── ImageError             quarantine one image and go on
    │   ├── DecodeError        its bytes are not an image of a supported format
    │   ├── ShapeError         it is an image of a size that the engine refuses
    │   └── MaskError          its mask, or the run-length encoding of one, is malformed
    ├── LakeError              stop: the object store failed permanently
    │   ├── UnsupportedError   the store does not know this kind of request
    │   ├── MissingObjectError quarantine: the object is gone
    │   ├── ChangedObjectError quarantine: the object is not the one that was planned
    │   ├── LargeObjectError   quarantine: the object has more bytes than are read
    │   ├── NotAFileError      quarantine: it is a FIFO, a socket, a device or a broken link
    │   ├── OutsideLakeError   quarantine: a link leads out of the lake, and is not followed
    │   ├── DamagedFileError   stop: a record in the store is damaged; others can be read
    │   ├── UndecidedStoreError stop: concurrent writers would overwrite each other's objects
    │   ├── FormatError        stop: a newer build wrote the file; it is neither read nor replaced
    │   └── TransientLakeError retry, then fail the shard
    ├── EngineError            stop: the engine's files are missing, damaged or unusable
    │   ├── EngineMismatchError stop before any work: another GPU, runtime or version
    │   └── DeviceError        the GPU failed: this process cannot use it any more, another may
    ├── ClusterError           stop: Ray failed; receipts are kept
    ├── LockHeldError          stop, exit 4: another run holds the (engine, date)
    ├── TooManyBadImagesError  stop, exit 3: nothing is committed, receipts are kept
    └── CommitError            the commit certainly failed
        ├── CommitConflictError another writer committed first
        │   └── StaleChangeError files to replace were rewritten: build the change again
        └── CommitUnknownError the outcome is unknown: delete nothing, read again

A message says what was found, what was expected and what to do next. Ray pickles errors to the
driver, so each error takes one positional message and keyword arguments with defaults, which
survive pickling.
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
    "not_a_number",
    "missing",
    "changed",
    "not_a_file",
    "unsafe_link",
    "unsafe_name",
    "damaged_container",
    "no_image_column",
)
"""Every code of the quarantine; a user's own decoder may have others."""
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
        message: What was found, what was expected, what to do next. Secrets in URLs are removed:
            see `redacted`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))

    @property
    def message(self) -> str:
        """The message for the user."""
        return str(self.args[0])


class ConfigError(SteelBatchError):
    """A flag, a configuration file or the environment is wrong."""

    exit_code = 2


class MachineError(ConfigError):
    """This machine or cluster lacks what is needed: a package, a driver, a GPU, an answer."""

    exit_code = 1


class InputError(ConfigError):
    """The data at `--images` cannot be used: the data has to change, not the command."""

    exit_code = 1


class NoImagesError(InputError):
    """There are no images of a date yet."""


class PlanMismatchError(ConfigError):
    """An unfinished run of this engine and date was planned from other inputs or settings."""


class ImageError(SteelBatchError):
    """One image cannot be scored; it is quarantined and the run continues.

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
    """The object store failed permanently: no such bucket, access denied, disk full."""


class UnsupportedError(LakeError):
    """The object store does not support this kind of request."""


class MissingObjectError(LakeError):
    """There is no object with this key."""


class ChangedObjectError(LakeError):
    """The object's ETag or content is not the requested one."""


class LargeObjectError(LakeError):
    """The object has more bytes than the reader accepts, or than fit in memory."""


class NotAFileError(LakeError):
    """It is not a regular file but a FIFO, a socket, a device or a broken link."""


class OutsideLakeError(LakeError):
    """A link leads out of the lake's root, and such links are not followed."""


class DamagedFileError(LakeError):
    """A record in the store, such as a run's, is not what any build writes."""


class UndecidedStoreError(LakeError):
    """The store lets two writers of one object both succeed, or rejects conditional writes."""


class FormatError(LakeError):
    """A durable file is of a format that this build cannot read; it must not be replaced."""


class TransientLakeError(LakeError):
    """The object store failed in a way that may pass: time-out, 503, reset, short read."""


class EngineError(SteelBatchError):
    """An engine's files are missing, damaged or unusable."""


class EngineMismatchError(EngineError):
    """A compiled plan is for another GPU, TensorRT version or engine than this one."""


class DeviceError(EngineError):
    """The GPU failed: this process can no longer use it, but another process may."""


class ClusterError(SteelBatchError):
    """The Ray cluster failed in a way that retrying a shard does not fix."""


class LockHeldError(SteelBatchError):
    """Another run holds the lock of this engine and date."""

    exit_code = 4


class TooManyBadImagesError(SteelBatchError):
    """More images are quarantined than `--max-bad` allows."""

    exit_code = 3


class CommitError(SteelBatchError):
    """A commit certainly failed; its rows are not visible."""


class CommitConflictError(CommitError):
    """Another writer committed first; read the table again."""


class StaleChangeError(CommitConflictError):
    """The files that a commit was to replace have left the table: build the change again."""


class CommitUnknownError(CommitError):
    """The outcome of a commit is unknown; nothing may be deleted."""


def paragraph_of(error: BaseException) -> str:
    """Return another library's message as one plain line, without line breaks, colour or XML."""
    text = _ANSWER.sub(r"\1 (\2)", _ORNAMENT.sub("", str(error)))
    lines = [line.strip().rstrip(".") for line in text.splitlines()]
    return ": ".join(line for line in lines if line) or type(error).__name__


def redacted(text: str) -> str:
    """Remove the secrets in a text's URLs.

    These are user and password before a host, and in http URLs everything after ``?``, which
    contains the signature of a presigned URL.
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
    """Escape control characters, which keys may contain, for a terminal, a log or a page.

    Unicode's direction marks are escaped too.

    Args:
        text: Any text.
        lines: Whether line breaks are kept; otherwise they are escaped too.
    """
    return (_UNUSUAL_IN_LINES if lines else _UNUSUAL).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    return ascii(char)[1:-1] if unicodedata.category(char) in _CONTROLS else char
