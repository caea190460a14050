"""What Ray raises, as our errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import ray

from steel_batch.errors import ClusterError, SteelBatchError


@contextlib.contextmanager
def ray_errors() -> Iterator[None]:
    """Turn Ray's errors into ours: the cause where it is one of ours, else `ClusterError`."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = _cause_of(error)
        if isinstance(cause, SteelBatchError):
            # Ray Data writes advice of its own below the message.
            cause.args = (cause.message.partition("\n")[0],)
            raise cause from error
        raise ClusterError(f"a task on the Ray cluster failed: {reason_of(cause)}") from error
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"the Ray cluster failed ({type(error).__name__}): {reason_of(error)} What has its "
            "receipt is kept: run the same command again."
        ) from error


def _cause_of(error: BaseException) -> BaseException:
    """What was raised in the task: what Ray makes of it has a remote traceback for a message."""
    while True:
        inner = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error.__cause__
        if inner is None or (isinstance(error, SteelBatchError) and not _is_rays(error)):
            return error
        error = inner


def _is_rays(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayError)


def reason_of(error: BaseException) -> str:
    """What went wrong, out of a message that holds a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1].rstrip(".") + "."
