"""The connection to an S3 store: s3fs's client and event loop, with our own retries.

Every request goes through `Client.retried`, so that limits hold and every retry is counted;
botocore's own retries are off, so that the two do not multiply.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import botocore.exceptions
import s3fs
from aiobotocore.session import AioSession
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from steel_batch import interrupt
from steel_batch.errors import ConfigError
from steel_batch.lake import s3_listing
from steel_batch.lake.retry import Patience, Retry, Stats
from steel_batch.lake.s3_faults import Fault, Verdict, sort_fault, sort_foreign
from steel_batch.lake.throttle import Throttle

T = TypeVar("T")

READS_AT_ONCE: Final = 96
POLL_SECONDS: Final = 0.2
SLOWEST_BYTES: Final = 100_000
"""Bytes per second that an upload takes at least; a slower one has stalled."""
NO_REGION: Final = (None, "aws-global")
DEFAULT_REGION: Final = "us-east-1"
RENEW_SECONDS: Final = 1.0
"""Requests that fail together for their credentials reload them only once."""


class _StoppedError(Exception):
    """A signal asked to stop while a request waited for its next attempt."""


class Client:
    """A connection of one process, made on first use.

    Args:
        endpoint_url: An endpoint other than AWS's; None uses what botocore finds in the
            environment and the profile.
        retry: Limits of retries.
    """

    def __init__(self, endpoint_url: str | None, retry: Retry) -> None:
        self.stats = Stats()
        self.throttle = Throttle(READS_AT_ONCE)
        self._retry = retry
        self._was_answered = False
        self._renewed = float("-inf")
        self._prepared: Any = None
        self._fs = s3fs.S3FileSystem(
            endpoint_url=endpoint_url,
            session=_open_session(),
            use_listings_cache=False,
            skip_instance_cache=True,
            config_kwargs={
                "retries": {"max_attempts": 0},
                "connect_timeout": retry.answer_seconds,
                "read_timeout": retry.answer_seconds,
                "max_pool_connections": 2 * READS_AT_ONCE,
                # Botocore would make its own anew for each request, character by character.
                "user_agent": f"Botocore/{botocore.__version__} steel-batch",
            },
        )

    def run(self, work: Coroutine[Any, Any, T], *, is_read: bool = False) -> T:
        """Run a coroutine on the event loop's thread and wait for it.

        Args:
            work: The coroutine.
            is_read: It changes nothing in the store, so it may be cancelled during a request.

        Raises:
            Interrupted: A signal asked to stop. A request that writes is completed first.
        """
        ended = threading.Event()
        with contextlib.ExitStack() as stack:
            if interrupt.is_shielded():  # in that thread, too: it copies this one's context
                stack.enter_context(interrupt.shielded())
            future = asyncio.run_coroutine_threadsafe(work, self._fs.loop)
            future.add_done_callback(lambda _: ended.set())
            if is_read and not interrupt.is_due():
                stack.enter_context(interrupt.waking(ended.set))
            ended.wait()
            if not future.done():
                future.cancel()
                raise interrupt.Interrupted
            try:
                return future.result()
            except _StoppedError:
                raise interrupt.Interrupted from None

    async def call(self, method: str, **options: Any) -> Any:
        """Make one request, without retries."""
        client = await self._fs.set_session()
        if client is not self._prepared:
            client.meta.events.register("before-call.s3.DeleteObjects", _add_md5)
            client.meta.events.register(s3_listing.EVENT, s3_listing.read_page)
            self._prepared = client
        body = options.get("Body", b"")
        answer = getattr(client, method)(**options)
        if not body:
            return await answer
        # The HTTP client has limits for connecting and for the answer, and none for sending a body
        # and for the store's consent to it, which botocore asks for.
        limit = 2 * self._retry.answer_seconds + len(body) / SLOWEST_BYTES
        return await asyncio.wait_for(answer, limit)

    async def url_of(self, bucket: str, key: str) -> str:
        """The URL of an object at the client's endpoint."""
        client = await self._fs.set_session()
        names = {"Bucket": bucket, "Key": key}
        signed: str = await client.generate_presigned_url("get_object", Params=names)
        return signed.partition("?")[0]

    async def get_signed(self, url: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        """Make one GET request, signed as botocore signs it; its status, ETag and body."""
        client = await self._fs.set_session()
        credentials = await self._fs.session.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        request = AWSRequest(method="GET", url=url, headers=headers)
        region = client.meta.region_name
        region = DEFAULT_REGION if region in NO_REGION else region
        S3SigV4Auth(await credentials.get_frozen_credentials(), "s3", region).add_auth(request)
        answer = await client._endpoint.http_session.send(request.prepare())
        return answer.status_code, answer.headers.get("ETag", ""), await answer.content

    async def retried(
        self, what: str, request: Callable[[], Awaitable[T]], *, at_once: bool = False
    ) -> T:
        """Make a request until it succeeds, fails for good, or reaches the limits of `Retry`.

        Args:
            what: Description of the request, for messages.
            request: Makes the request once.
            at_once: It is one of many concurrent requests, whose number adapts to the store.
        """
        patience = Patience(self._retry)
        while True:
            self.stats.add("requests")
            try:
                async with self.throttle if at_once else contextlib.nullcontext():
                    result = await request()
            except Exception as error:  # noqa: BLE001 - sorted by kind right here
                fault = sort_fault(error, what)
                self._was_answered |= isinstance(error, botocore.exceptions.ClientError)
            else:
                self._was_answered = True
                if at_once:
                    self.throttle.succeeded()
                return result
            if fault.verdict is Verdict.SLOW:
                self.throttle.slow_down()
            await _rest(self._pause(what, fault, patience))
            if fault.verdict is Verdict.EXPIRED:
                await self._renew_session()

    def call_with_retry(self, what: str, request: Callable[[], T]) -> T:
        """See `Lake.call_with_retry`."""
        patience = Patience(self._retry)
        while True:
            self.stats.add("requests")
            try:
                return request()
            except Exception as error:
                fault = sort_foreign(error, what)
                if fault is None:
                    raise
                pause = self._pause(what, fault, patience, cause=error)
            interrupt.sleep(pause)
            if fault.verdict is Verdict.EXPIRED:
                self.run(self._renew_session())

    def _pause(
        self, what: str, fault: Fault, patience: Patience, cause: Exception | None = None
    ) -> float:
        """Seconds to wait before the next attempt; raises the failure if there is none."""
        verdict = fault.verdict
        pause = None
        if verdict is not Verdict.FINAL:
            pause = patience.pause(
                refused=verdict in (Verdict.REFUSED, Verdict.EXPIRED),
                unreachable=verdict is Verdict.UNREACHABLE and not self._was_answered,
            )
        if pause is None:
            raise fault.error from cause
        self.stats.retried(what, fault.kind, pause, patience.waited_seconds)
        return pause

    async def _renew_session(self) -> None:
        """Reload the credentials."""
        now = time.monotonic()
        if now - self._renewed > RENEW_SECONDS:
            self._renewed = now
            self._fs.session = _open_session()
            with contextlib.suppress(botocore.exceptions.BotoCoreError):
                # If credentials are still missing, the next attempt fails.
                await self._fs.set_session(refresh=True)

    def storage_options(self, what: str) -> dict[str, str]:
        """Options for delta-rs to reach the same store in the same way. Contains credentials."""
        return self.run(self.retried(what, self._storage_options))

    async def _storage_options(self) -> dict[str, str]:
        client = await self._fs.set_session()
        options = {
            "AWS_REGION": client.meta.region_name,
            "max_retries": "1000",
            "timeout": f"{self._retry.answer_seconds:.0f}s",
            "retry_timeout": f"{self._retry.total_seconds:.0f}s",
        }
        if client.meta.region_name in NO_REGION:
            options["AWS_REGION"] = DEFAULT_REGION
        endpoint = client.meta.endpoint_url
        if ".amazonaws.com" not in endpoint:
            options["AWS_ENDPOINT_URL"] = endpoint
            if endpoint.startswith("http://"):
                options["AWS_ALLOW_HTTP"] = "true"
        credentials = await self._fs.session.get_credentials()
        if credentials is None:
            raise botocore.exceptions.NoCredentialsError
        frozen = await credentials.get_frozen_credentials()
        options["AWS_ACCESS_KEY_ID"] = frozen.access_key
        options["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key
        if frozen.token:
            options["AWS_SESSION_TOKEN"] = frozen.token
        return options


def _open_session() -> AioSession:
    """A session with credentials of its own, which reads botocore's data once per process.

    Each session would parse a megabyte of JSON, which is most of what a new client costs.

    Raises:
        ConfigError: The profile does not exist, or its file cannot be parsed.
    """
    try:
        session = AioSession()
        session.register_component("data_loader", _data_loader())
        session.get_scoped_config()  # reads the files and the profile, as later requests do
    except botocore.exceptions.BotoCoreError as error:
        raise ConfigError(
            f"the AWS settings cannot be used: {error}. Correct AWS_PROFILE and the files that "
            "AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name (~/.aws/config and "
            "~/.aws/credentials by default)."
        ) from error
    return session


@functools.cache
def _data_loader() -> Any:
    return AioSession().get_component("data_loader")


async def _rest(seconds: float) -> None:
    """Wait, but not much longer than until a signal asks to stop."""
    give_up = time.monotonic() + seconds
    while (left := give_up - time.monotonic()) > 0:
        if interrupt.is_due():
            raise _StoppedError
        await asyncio.sleep(min(left, POLL_SECONDS))


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Add a request's MD5 to botocore's own checksum: some stores know only the older one."""
    body = params["body"]
    digest = hashlib.md5(body if isinstance(body, bytes) else body.encode(), usedforsecurity=False)
    params["headers"]["Content-MD5"] = base64.b64encode(digest.digest()).decode()
