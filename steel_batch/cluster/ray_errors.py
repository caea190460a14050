"""Converts Ray's errors to ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final

import ray

from steel_batch.errors import ClusterError, MachineError, SteelBatchError

OTHER_INSTALL: Final = re.compile(
    r"No module named 'steel_batch|cannot import name '\w+' from 'steel_batch|"
    r"Can't get attribute '\w+' on <module 'steel_batch"
)
"""Python's messages if a node receives a class or function of ours that it does not have."""
ADDRESS: Final = re.compile(r"\bip=([^,)\s]+)")


@contextlib.contextmanager
def ray_errors() -> Iterator[None]:
    """Convert Ray's errors to ours: the cause if it is one of ours, else `ClusterError`.

    A node without a matching steel-batch is a `MachineError` with the node's address.
    """
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        cause = _cause_of(error)
        if isinstance(cause, SteelBatchError):
            # Ray Data adds advice of its own below the message.
            cause.args = (cause.message.partition("\n")[0],)
            raise cause from error
        _refuse_other_install(error)
        raise ClusterError(
            f"a task on the Ray cluster failed: {reason_of(cause)} What is scored is kept: run the "
            "same command again."
        ) from error
    except ray.exceptions.RayError as error:
        _refuse_other_install(error)
        raise ClusterError(
            f"the Ray cluster failed ({type(error).__name__}): {reason_of(error)} What is scored "
            "is kept: run the same command again."
        ) from error


def _cause_of(error: BaseException) -> BaseException:
    """The exception raised in the task: Ray's own has a remote traceback as its message."""
    while True:
        inner = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error.__cause__
        if inner is None or (isinstance(error, SteelBatchError) and not _is_rays(error)):
            return error
        error = inner


def _refuse_other_install(error: BaseException) -> None:
    """Raise an error with a remedy if a node could not even load what it was sent."""
    text = str(error)
    if OTHER_INSTALL.search(text) is None:
        return
    address = ADDRESS.search(text)
    node = "a node of the Ray cluster" if address is None else f"node {address[1]}"
    raise MachineError(
        f"{node} has no steel-batch that matches this one: {reason_of(error)} Install the same "
        "steel-batch, Python and Ray on every node, and start Ray there from that environment; "
        "`steel-batch doctor --ray-address auto` shows what each has."
    ) from error


def _is_rays(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayError)


def reason_of(error: BaseException) -> str:
    """The reason, extracted from a message with a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
    return (named or lines or [type(error).__name__])[-1].rstrip(".") + "."
