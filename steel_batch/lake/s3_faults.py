"""What a failed S3 request means: whether a retry may help, and the message for the user.

No message contains credentials: requests are signed in a header, so URLs contain none either.
"""

from __future__ import annotations

import asyncio
import enum
import re
import ssl
from dataclasses import dataclass
from typing import Final

import aiohttp
import botocore.exceptions
import botocore.parsers

from steel_batch.errors import (
    ChangedObjectError,
    LakeError,
    MissingObjectError,
    SteelBatchError,
    TransientLakeError,
    UnsupportedError,
    paragraph_of,
)


class Verdict(enum.Enum):
    """The next step after a failure."""

    PASSING = enum.auto()
    """Try again."""
    SLOW = enum.auto()
    """Try again, with fewer concurrent requests."""
    UNREACHABLE = enum.auto()
    """Nothing answers at that address: try again, for a shorter time if nothing ever answered."""
    REFUSED = enum.auto()
    """Try a few more times: stores sometimes deny access for no reason."""
    EXPIRED = enum.auto()
    """As REFUSED, with reloaded credentials."""
    FINAL = enum.auto()
    """The store will give the same answer again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A request's failure."""

    kind: str
    """S3's error code, or the exception's name."""
    verdict: Verdict
    error: LakeError
    """To be raised if this failure is final."""


class ObjectExistsError(LakeError):
    """A conditional put found an existing object."""


_SLOW: Final = {
    "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    "BandwidthLimitExceeded", "TooManyRequests", "503", "429",
}  # fmt: skip
_PASSING: Final = {
    "InternalError", "InternalServerError", "RequestTimeout", "RequestTimeoutException",
    "OperationAborted", "ConditionalRequestConflict", "IncompleteBody", "BadDigest",
    "500", "502", "504", "408", "409",
}  # fmt: skip
_EXPIRED: Final = {
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
    "400",  # the only answer of a HEAD to an expired token
}  # fmt: skip
_UNSUPPORTED: Final = {"NotImplemented", "501", "MethodNotAllowed", "405"}
_REFUSED: Final = {"AccessDenied", "403", "Forbidden", "UnauthorizedAccess"}
_NO_SUCH_IDENTITY: Final = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId",
    "AuthFailure", "401",
}  # fmt: skip
_ELSEWHERE: Final = {
    "PermanentRedirect", "301", "307", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}  # fmt: skip

_NO_CREDENTIALS: Final = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.TokenRetrievalError,
    botocore.exceptions.SSOError,
)
_UNREACHABLE: Final = (
    botocore.exceptions.EndpointConnectionError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ProxyConnectionError,
)
_PASSING_TYPES: Final = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    botocore.exceptions.ChecksumError,
    botocore.exceptions.FlexibleChecksumError,
    botocore.parsers.ResponseParserError,
    aiohttp.ClientError,
    asyncio.TimeoutError,
    TimeoutError,
    OSError,
)

_FOREIGN: Final = ("S3 error", "Error performing", "HTTP error", "necessary privileges")
"""Parts of delta-rs messages that appear only if the store failed a request."""
_QUOTED: Final = re.compile(
    r"<Code>(?P<code>\w+)</Code>\s*(<Message>(?P<message>[^<]*)</Message>)?"
)
_STATUS: Final = re.compile(r"\b(?P<status>[345]\d\d) [A-Z]")


def sort_fault(error: Exception, what: str) -> Fault:
    """Classify a failure.

    Args:
        error: What the request raised; our own errors are kept as they are.
        what: Description of the request, for the message.
    """
    kind = type(error).__name__
    if isinstance(error, TransientLakeError):
        return Fault("bad_answer", Verdict.PASSING, error)
    if isinstance(error, LakeError):
        return Fault(kind, Verdict.FINAL, error)
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response.get("Error", {})
        return sort_code(str(answer.get("Code", "unknown")), str(answer.get("Message", "")), what)
    if isinstance(error, _NO_CREDENTIALS):
        # An instance's role may be unreachable for a moment.
        return Fault(
            kind,
            Verdict.EXPIRED,
            LakeError(
                f"{what}: no usable AWS credentials were found ({kind}). Set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role; "
                "`aws sts get-caller-identity` shows which ones are found."
            ),
        )
    detail = f"{what}: {kind}: {error}".rstrip(": .") + "."
    if isinstance(error, botocore.exceptions.SSLError) and "CERTIFICATE" in str(error).upper():
        message = f"{detail} Set AWS_CA_BUNDLE to the certificate authority of the endpoint."
        return Fault(kind, Verdict.FINAL, LakeError(message))
    if isinstance(error, botocore.exceptions.SSLError) and "WRONG_VERSION" in str(error).upper():
        message = f"{detail} The endpoint does not use TLS: give it as http://."
        return Fault(kind, Verdict.FINAL, LakeError(message))
    if isinstance(error, botocore.exceptions.HTTPClientError):
        cause = error.kwargs.get("error")
        if isinstance(cause, (FileNotFoundError, PermissionError, ssl.SSLError)):
            message = (
                f"{what}: the certificates of AWS_CA_BUNDLE, or of ca_bundle in the profile, "
                f"cannot be read: {cause}. Correct the path, or leave it out."
            )
            return Fault(kind, Verdict.FINAL, LakeError(message))
    if isinstance(error, _UNREACHABLE):
        message = (
            f"{detail} Nothing answers there: check the network, --endpoint-url and the region."
        )
        return Fault(kind, Verdict.UNREACHABLE, TransientLakeError(message))
    if isinstance(error, _PASSING_TYPES):
        return Fault(kind, Verdict.PASSING, TransientLakeError(detail))
    return Fault(kind, Verdict.FINAL, LakeError(detail))


def sort_foreign(error: Exception, what: str) -> Fault | None:
    """Classify another library's failure, by the store's answer that it quotes.

    Returns:
        None if the failure does not come from a store or network.
    """
    text = paragraph_of(error)
    if isinstance(error, SteelBatchError) or not any(mark in text for mark in _FOREIGN):
        return None
    quoted = _QUOTED.search(str(error))
    if quoted is not None:
        return sort_code(quoted["code"], quoted["message"] or "", what)
    status = _STATUS.search(text)
    if status is not None:
        return sort_code(status["status"], "", what)
    detail = f"{what}: {text.rstrip('.')}."
    return Fault(type(error).__name__, Verdict.PASSING, TransientLakeError(detail))


def sort_code(code: str, message: str, what: str) -> Fault:
    """Classify an error code of S3; a HEAD has only its status as a code."""
    answer = f"{what}: the store answers {code}" + (f" ({message.rstrip('.')})" if message else "")
    if code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
        return Fault(code, Verdict.FINAL, MissingObjectError(f"{what} is not there."))
    if code in ("PreconditionFailed", "412"):
        return Fault(code, Verdict.FINAL, ObjectExistsError(f"{what} exists or was changed."))
    if code in ("InvalidRange", "416"):
        error = ChangedObjectError(f"{what} is shorter than the requested range.")
        return Fault(code, Verdict.FINAL, error)
    if code in _SLOW:
        return Fault(code, Verdict.SLOW, TransientLakeError(f"{answer}."))
    if code in _PASSING:
        return Fault(code, Verdict.PASSING, TransientLakeError(f"{answer}."))
    if code in _EXPIRED:
        advice = "the credentials have expired: log in again, or renew them at their source"
        if code == "400":
            advice = "the credentials have expired, or the bucket is in another region"
        return Fault(code, Verdict.EXPIRED, LakeError(f"{answer}; {advice}."))
    if code in _REFUSED:
        advice = (
            "these credentials lack the permission: allow them to list the bucket and to get, put "
            "and delete objects in it, or use others"
        )
        return Fault(code, Verdict.REFUSED, LakeError(f"{answer}; {advice}."))
    if code == "NoSuchBucket":
        message = f"{what}: there is no such bucket; check the URL and --endpoint-url."
        return Fault(code, Verdict.FINAL, LakeError(message))
    if code in _NO_SUCH_IDENTITY:
        advice = (
            "the AWS credentials are wrong: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_SESSION_TOKEN and AWS_PROFILE"
        )
        return Fault(code, Verdict.FINAL, LakeError(f"{what}: the store answers {code}; {advice}."))
    if code in _ELSEWHERE:
        advice = "the bucket is in another region: set AWS_REGION to it"
        return Fault(code, Verdict.FINAL, LakeError(f"{answer}; {advice}."))
    if code == "RequestTimeTooSkewed":
        return Fault(code, Verdict.FINAL, LakeError(f"{answer}; correct this host's clock."))
    if code in _UNSUPPORTED:
        return Fault(code, Verdict.FINAL, UnsupportedError(f"{answer}."))
    return Fault(code, Verdict.FINAL, LakeError(f"{answer}."))
