"""Signatures of a registry's documents: cards, aliases' entries, records of compiled plans.

Who can write the registry decides what runs on GPU workers and under which name rows are written.
With a key in `KEY_VARIABLE`, each document is signed where it is written, and a signature that is
there is checked where the document is read; `--require-signed` refuses what has none. A signature
is an HMAC-SHA256 over the document and its key: who can check one can make one, so give the key to
those who register and to those who score, and not to those who only write images or read tables.

Signatures lie apart from the documents, under the model, and are named by a digest of what they
sign: nothing about the documents changes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from steel_batch import layout
from steel_batch.errors import ConfigError, EngineError, MissingObjectError
from steel_batch.lake import Lake

KEY_VARIABLE: Final = "STEEL_BATCH_SIGNING_KEY"
MIN_KEY_CHARS: Final = 32
_PURPOSE: Final = b"steel_batch registry 1"


def sign(store: Lake, key: str, document: bytes) -> bool:
    """Sign a document of the registry, where this process has a key.

    Args:
        store: Where the document lies.
        key: Its key in the store: the same bytes elsewhere are not signed.
        document: Its bytes.

    Returns:
        Whether there was a key to sign with.

    Raises:
        ConfigError: The key is too short to be one.
    """
    secret = _secret()
    if secret is None:
        return False
    text = _signature(secret, key, document) + "\n"
    store.write(_file(key, document), text.encode())
    return True


def check_signature(store: Lake, key: str, document: bytes, *, is_required: bool) -> None:
    """Refuse a document whose signature is wrong, or missing where it is required.

    Args:
        store: Where the document lies.
        key: Its key in the store.
        document: Its bytes as they were read.
        is_required: Whether a document without a signature is refused too.

    Raises:
        ConfigError: A signature is required and this process has no key to check it with.
        EngineError: The signature is not one of this key, or there is none.
    """
    if is_required:
        require_key()
    secret = _secret()
    if secret is None:
        return
    try:
        found = store.read(_file(key, document)).decode("ascii", "replace").strip()
    except MissingObjectError:
        if is_required:
            raise EngineError(
                f"{store.uri(key)} has no signature and --require-signed was given. Check who "
                "wrote it and what it says; then sign it with `steel-batch engines sign`."
            ) from None
        return
    if not hmac.compare_digest(found, _signature(secret, key, document)):
        raise EngineError(
            f"{store.uri(key)} is not signed with the key in {KEY_VARIABLE}: the document, its "
            "signature or the key is another one. It is not used."
        )


def require_key() -> None:
    """Refuse to go on without a key.

    Raises:
        ConfigError: This process has none.
    """
    if _secret() is None:
        raise ConfigError(
            f"--require-signed needs the registry's signing key: {KEY_VARIABLE} is not set for "
            "this process. Set it on this machine and on every node that scores."
        )


def sign_model(store: Lake, model: str) -> list[str]:
    """Sign every document of a model as it is now.

    Args:
        store: The store.
        model: The model's name.

    Returns:
        The keys of the documents.

    Raises:
        ConfigError: There is no key to sign with, or no such model.
    """
    if _secret() is None:
        raise ConfigError(f"signing needs a key: set {KEY_VARIABLE} for this command.")
    layout.check_name(model, what="model")
    items = store.list_objects(f"registry/{model}/")
    keys = sorted(item.key for item in items if item.key.endswith(".json"))
    if not keys:
        raise ConfigError(f"there is no model {model!r} in {store.url}; `engines list` shows them.")
    for key in keys:
        sign(store, key, store.read(key))
    return keys


def _secret() -> bytes | None:
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if not text:
        return None
    if len(text) < MIN_KEY_CHARS:
        raise ConfigError(
            f"{KEY_VARIABLE} has {len(text)} characters, expected {MIN_KEY_CHARS} or more. Make a "
            "key with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return text.encode()


def _signature(secret: bytes, key: str, document: bytes) -> str:
    message = b"\0".join([_PURPOSE, key.encode(), document])
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _file(key: str, document: bytes) -> str:
    digest = hashlib.sha256(key.encode() + b"\0" + document).hexdigest()
    return layout.signature_file(key.split("/")[1], digest)
