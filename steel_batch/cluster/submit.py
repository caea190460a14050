"""Submits a command to a Ray cluster as a job, and follows it."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from steel_batch import interrupt
from steel_batch.cluster.address import is_refusal, with_token_if_asked
from steel_batch.cluster.join import HOW_TO_SIGN_IN, first_sentence
from steel_batch.errors import ClusterError, ConfigError, MachineError

LOOK_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 10.0
MAX_MISSES: Final = 4
"""Consecutive failed checks before the head counts as gone: after about a minute."""
_EXIT_CODES = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 130}
_ENTRY: Final = (
    "import sys; sys.path[:] = filter(None, sys.path); from steel_batch.cli import main; main()"
)
"""What ``python -m steel_batch.cli`` does, without importing from the folder of the job; ``-P``
says that only from Python 3.11 on, and the head may have an earlier one."""
_NOTICE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\s+INFO \S+\.py:\d+ -- ")
"""Start of the lines in which Ray reports what it does; the command's own lines do not match."""


class ClusterJobs:
    """The jobs of one cluster.

    Args:
        address: The head's jobs server, ``http://head:8265``.
        look_seconds: How often the server is checked while a job is followed.

    Raises:
        ConfigError: No jobs server answers there, or it requires a token.
    """

    def __init__(self, address: str, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._address, self._look_seconds = address, look_seconds
        expected = (
            "give that of the head's jobs server, such as http://head:8265; "
            "`ray dashboard cluster.yaml` forwards it to this machine."
        )
        if not address.startswith(("http://", "https://")):  # Ray would look for a cluster there
            raise ConfigError(f"--address {address!r} is not a URL: {expected}")
        if "@" in urlsplit(address).netloc:
            raise ConfigError(
                f"--address {address!r} holds a user or password, which job lists and logs would "
                "show: give it without. A cluster of Ray asks for a token; see RAY_AUTH_TOKEN."
            )
        _hush()
        try:
            self._client = with_token_if_asked(lambda: JobSubmissionClient(address))
        except ConnectionError as error:
            raise MachineError(f"no jobs server of Ray answers at {address}: {expected}") from error
        except (RuntimeError, OSError, ValueError, LookupError, RayError) as error:
            raise MachineError(
                f"the jobs server at {address} rejects this client: {first_sentence(error)} "
                f"{HOW_TO_SIGN_IN if is_refusal(error) else f'If it is none, {expected}'}"
            ) from error

    def submit(self, arguments: Sequence[str]) -> str:
        """Start ``steel-batch`` with these arguments on the head; return the job's id.

        Raises:
            ClusterError: The cluster rejected it.
        """
        entrypoint = shlex.join(["python", "-c", _ENTRY, *arguments])
        try:
            return str(self._client.submit_job(entrypoint=entrypoint))
        except (RuntimeError, OSError, RayError) as error:
            raise ClusterError(
                f"{self._address} refused the job: {first_sentence(error)}"
            ) from error

    def follow(self, job: str, on_text: Callable[[str], None]) -> int:
        """Wait for a job to end, forwarding its output; return its exit code.

        Raises:
            ClusterError: The connection was lost; the job continues.
            Interrupted: A signal asked to stop; the job continues.
        """
        lines = _Lines(on_text)

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                lines.add(text)

        async def tail_until_stopped() -> None:
            loop, task = asyncio.get_running_loop(), asyncio.ensure_future(tail())
            silence = asyncio.ensure_future(self._until_silent())
            with interrupt.waking(lambda: loop.call_soon_threadsafe(task.cancel)):
                await asyncio.wait({task, silence}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                raise ConnectionError("nothing answers there any more.")
            silence.cancel()
            await task

        try:
            asyncio.run(tail_until_stopped())
            details = self._client.get_job_info(job)
        except asyncio.CancelledError:
            interrupt.check()
            raise
        except (RuntimeError, OSError, RayError, aiohttp.ClientError) as error:
            raise ClusterError(
                f"lost the connection to job {job} on {self._address}: {first_sentence(error)} If "
                f"the head is alive, the job continues there: follow it with `ray job logs {job} "
                "--follow`. If the head is gone, start it and submit the same command again: what "
                "is scored is kept."
            ) from error
        finally:
            lines.end()
        return _exit_code(details)

    async def _until_silent(self) -> None:
        """Check the jobs server regularly, until it accepts no connection any more.

        A head that lost its power closes no connection, and Ray's client would wait without end.
        """
        place = urlsplit(self._address)
        port = place.port or (443 if place.scheme == "https" else 80)
        num_misses = 0
        while num_misses < MAX_MISSES:
            await asyncio.sleep(self._look_seconds)
            try:
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection(place.hostname, port), CONNECT_SECONDS
                )
            except (OSError, asyncio.TimeoutError):
                num_misses += 1
            else:
                num_misses = 0
                writer.close()


class _Lines:
    """Forwards a job's output in whole lines, without Ray's own messages."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._rest = ""

    def add(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        kept = "".join(f"{line}\n" for line in lines if _NOTICE.match(line) is None)
        if kept:
            self._on_text(kept)

    def end(self) -> None:
        """Forward a last line without a line end."""
        if self._rest:
            self._on_text(self._rest)
        self._rest = ""


def _exit_code(details: JobDetails) -> int:
    """The exit code of a job's command; if a signal ended it, the code that a shell would use."""
    code = details.driver_exit_code
    if code is None:
        return _EXIT_CODES.get(details.status, 1)
    return 128 - int(code) if int(code) < 0 else int(code)


def _hush() -> None:
    """Keep the informational messages of Ray's client off stderr; its warnings stay."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] == "ray" and isinstance(logger, logging.Logger):
            logger.setLevel(max(logger.level, logging.WARNING))
