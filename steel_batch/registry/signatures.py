"""Signatures of a registry's documents: cards, entries of aliases, records of compiled plans.

Whoever can write to the registry decides what runs on GPU workers and under which name rows are
written. With a key in `KEY_VARIABLE`, each document is signed when it is written, and its signature
is checked when it is read. A document without a signature is refused if any document of its model
has one: it was changed, or written without the key. `--require-signed` refuses it in any case.
A signature is an HMAC-SHA256 of the document and its key in the store. The secret that checks
signatures also makes them: give it to those who register and those who score, but not to those who
only write images or read tables.

Signatures are stored apart from the documents, under the model, and are named by a digest of what
they sign: the documents themselves do not change, and of two processes that write a document at
once, neither replaces the other's signature.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from steel_batch import layout
from steel_batch.errors import ConfigError, EngineError, MissingObjectError
from steel_batch.lake import Lake
from steel_batch.lake.commands import command
from steel_batch.lake.format_version import FileFormat

KEY_VARIABLE: Final = "STEEL_BATCH_SIGNING_KEY"
MIN_KEY_CHARS: Final = 32
FORMAT: Final = FileFormat("a signature", newest=2)
_PURPOSE: Final = b"steel_batch registry 1"


def sign(store: Lake, key: str, document: bytes) -> bool:
    """Sign a document of the registry, if this process has a key.

    Args:
        store: Store of the document.
        key: Its key in the store; the same bytes under another key are not signed.
        document: Its bytes.

    Returns:
        Whether there was a key to sign with.

    Raises:
        ConfigError: The signing key is too short.
        FormatError: The existing signature has a newer format.
    """
    secret = _secret()
    if secret is None:
        return False
    place = _file(key, document)
    _read(store, place)  # one of a newer format is not replaced
    store.write(place, FORMAT.dump({"hmac_sha256": _signature(secret, key, document)}))
    return True


def check_signature(store: Lake, key: str, document: bytes, *, is_required: bool) -> None:
    """Refuse a document with a wrong signature, or without one in a model that is signed.

    Args:
        store: Store of the document.
        key: Its key in the store.
        document: Its bytes as read.
        is_required: Whether a document without a signature is refused even if nothing of its model
            is signed.

    Raises:
        ConfigError: A signature is required and this process has no key to check it with.
        EngineError: The signature was not made with this key, or there is none.
        FormatError: The signature has a newer format.
    """
    if is_required:
        require_key()
    secret = _secret()
    if secret is None:
        return
    found = _read(store, _file(key, document))
    if found is None:
        signs = layout.signature_file(_model(key), "")
        if is_required or next(iter(store.list_objects(signs)), None) is not None:
            because = (
                "--require-signed is set"
                if is_required
                else f"other documents of model {_model(key)} have one: it was changed, or written "
                "without the key"
            )
            raise EngineError(
                f"{store.uri(key)} has no signature, but {because}. The document is not used. "
                "Check who wrote it and what it contains, then sign it with "
                f"{command(store, 'engines', 'sign', _model(key))}, or restore it from a backup."
            )
        return
    if not hmac.compare_digest(found, _signature(secret, key, document)):
        raise EngineError(
            f"the signature of {store.uri(key)} does not match the key in {KEY_VARIABLE}: the "
            "document, the signature or the key has changed. The document is not used. Check who "
            "changed it, then restore it from a backup or sign it with "
            f"{command(store, 'engines', 'sign', _model(key))}."
        )


def require_key() -> None:
    """Refuse to continue without a signing key.

    Raises:
        ConfigError: This process has none.
    """
    if _secret() is None:
        raise ConfigError(
            f"--require-signed needs the registry's signing key: {KEY_VARIABLE} is not set for "
            "this process. Set it on this machine and on every node that scores."
        )


def sign_model(store: Lake, model: str) -> list[str]:
    """Sign every document of a model in its present state.

    Args:
        store: The store.
        model: The model's name.

    Returns:
        The keys of the documents in the store.

    Raises:
        ConfigError: There is no key to sign with, or no such model.
    """
    if _secret() is None:
        raise ConfigError(f"signing needs a key: set {KEY_VARIABLE} for this command.")
    layout.check_name(model, what="model")
    items = store.list_objects(f"registry/{model}/")
    keys = sorted(item.key for item in items if item.key.endswith(".json"))
    if not keys:
        raise ConfigError(
            f"there is no model {model!r} in {store.url}; {command(store, 'engines', 'list')} "
            "shows them."
        )
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


def _read(store: Lake, place: str) -> str | None:
    """The signature in a file, or None where there is none; of a damaged file, no signature."""
    try:
        text = store.read(place).decode("ascii", "replace").strip()
    except MissingObjectError:
        return None
    if not text.startswith("{"):  # format 1 was the bare digits
        return text
    try:
        return str(FORMAT.load(text, source=store.uri(place)).get("hmac_sha256"))
    except ValueError:
        return text


def _signature(secret: bytes, key: str, document: bytes) -> str:
    message = b"\0".join([_PURPOSE, key.encode(), document])
    return hmac.new(secret, message, hashlib.sha256).hexdigest()


def _file(key: str, document: bytes) -> str:
    digest = hashlib.sha256(key.encode() + b"\0" + document).hexdigest()
    return layout.signature_file(_model(key), digest)


def _model(key: str) -> str:
    return key.split("/")[1]
