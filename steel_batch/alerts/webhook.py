"""Tells a web service of alerts; what goes wrong there is a sentence and no error."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any, Final

from steel_batch.errors import ConfigError

URL_VARIABLE: Final = "STEEL_BATCH_ALERT_URL"
"""Holds the service's address: it is a secret, so it is no flag and is not kept with a run."""
TIMEOUT_SECONDS: Final = 10.0
"""From the start: a socket's own timeout begins again with each byte, and does not cover names."""
ALERTMANAGER: Final = "/api/v2/alerts"
"""Ends the address of an Alertmanager, which takes a list; all others take a text."""
_CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An address that moved is not followed: what is sent is for the one that was given."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """See `urllib.request.HTTPRedirectHandler`."""


def check_url(url: str) -> None:
    """Refuse an address that nothing can be sent to.

    Raises:
        ConfigError: It is one; the address is not repeated, as it is a secret. Or HTTP Basic
            authentication (RFC 7617) cannot express its user or password.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        is_good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and url.isascii()
            and url.isprintable()
            and " " not in url
        )
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(f"{URL_VARIABLE} is no http:// or https:// address.")
    user, password = _login_of(url)
    if b":" in user or _CONTROLS.search(user + password):
        raise ConfigError(
            f"{URL_VARIABLE} holds a user with ':' or a control character in the user or password, "
            "which HTTP Basic authentication cannot send. Give another user or password."
        )


def send_alerts(
    url: str, title: str, alerts: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS
) -> str | None:
    """Post alerts as JSON; returns what went wrong, without the address.

    Args:
        url: Where: a Slack or Teams webhook (``{"text": …}``), or an Alertmanager's
            ``/api/v2/alerts``. A user and password in it are sent as HTTP Basic authentication.
        title: Which run they are of.
        alerts: Sentences.
        timeout_seconds: For all of it.
    """
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname
    if parts.path.endswith(ALERTMANAGER):
        content: Any = [
            {
                "labels": {"alertname": "steel_batch", "run": title, "number": str(number)},
                "annotations": {"summary": alert},
            }
            for number, alert in enumerate(alerts, 1)
        ]
    else:
        content = {"text": "\n".join([title, *(f"- {alert}" for alert in alerts)])}
    headers = {"Content-Type": "application/json", "User-Agent": "steel-batch"}
    user, password = _login_of(url)
    if user or password:
        headers["Authorization"] = f"Basic {base64.b64encode(user + b':' + password).decode()}"
    request = urllib.request.Request(  # noqa: S310 - `check_url` admits http and https
        # urllib takes a user and password for a part of the host's name.
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        json.dumps(content).encode(),
        headers,
        method="POST",
    )
    found: list[str | None] = []
    sending = threading.Thread(
        target=lambda: found.append(_post(request, host, timeout_seconds)), daemon=True
    )
    sending.start()
    sending.join(timeout_seconds)
    return found[0] if found else f"{host} did not take the alerts: timed out."


def _login_of(url: str) -> tuple[bytes, bytes]:
    """The user and password of an address, as bytes; empty where it has none."""
    login = urllib.parse.urlsplit(url).netloc.rpartition("@")[0]
    user, _, password = login.partition(":")
    return urllib.parse.unquote_to_bytes(user), urllib.parse.unquote_to_bytes(password)


def _post(request: urllib.request.Request, host: str | None, timeout_seconds: float) -> str | None:
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=timeout_seconds):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"{host} answered {error.code} to the alerts."
    except http.client.HTTPException as error:
        return f"{host} did not answer the alerts in HTTP ({type(error).__name__})."
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{host} did not take the alerts: {reason}."
