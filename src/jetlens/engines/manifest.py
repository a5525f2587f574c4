"""Signed manifests and private files: what may be handed to TensorRT is what this user's jetlens wrote, byte for byte."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jetlens.atomic import write_atomic
from jetlens.engines.lock import locked
from jetlens.engines.plan import Manifest, facts_from_dict, facts_to_dict
from jetlens.errors import ModelError, OutputError

__all__ = ["PRIVATE", "check_folder", "from_json", "make_folder", "make_key", "read_key", "read_private", "to_json"]

PRIVATE = 0o600
"""Mode of every file of the cache."""

_FORMAT = 1
_KEY_NAME = "signing.key"
_KEY_BYTES = 32
_LONGEST = 1 << 20


def to_json(manifest: Manifest, key: bytes) -> bytes:
    """The text of a manifest, signed."""
    own = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    content = {"jetlens_engine": _FORMAT, **own, "key": dict(manifest.key), "facts": facts_to_dict(manifest.facts)}
    return json.dumps({**content, "hmac": _sign(content, key)}, indent=1).encode() + b"\n"


def from_json(text: bytes, key: bytes) -> Manifest:
    """Reads a manifest that was signed with this key.

    Raises:
        ModelError: it is no manifest of this format, or was not signed with this key.
    """
    try:
        content = json.loads(text)
        signature = str(content.pop("hmac"))
        if not hmac.compare_digest(signature.encode(), _sign(content, key).encode()):
            raise ModelError("its manifest was changed or signed by another user")
        if content.pop("jetlens_engine") != _FORMAT:
            raise ModelError(f"its manifest is not of format {_FORMAT}")
        return Manifest(**{**content, "facts": facts_from_dict(content["facts"])})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError("its manifest is damaged") from None


def read_key(folder: Path) -> bytes | None:
    """This user's signing key; None before anything was signed.

    Raises:
        OSError: it cannot be read.
        ModelError: others could have read or written it, or it is damaged.
    """
    try:
        return read_private(folder / _KEY_NAME, size=_KEY_BYTES)
    except FileNotFoundError:
        return None
    except (ModelError, PermissionError) as error:
        raise ModelError(f"the key that signs engines cannot be relied on: {error}") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ModelError("the key that signs engines cannot be relied on: it is a link") from None
        raise


def make_key(folder: Path) -> bytes:
    """This user's signing key, made on first use; one that others could have read is replaced, and what it signed is void.

    Raises:
        OutputError: it can be neither read nor made.
    """
    path = folder / _KEY_NAME
    try:
        with locked(folder / "key.lock", "makes a key", lambda line: None):
            try:
                key = read_key(folder)
            except ModelError:
                key = None
            if key is None:
                for scratch in folder.glob(f".{_KEY_NAME}.*"):
                    scratch.unlink()
                key = secrets.token_bytes(_KEY_BYTES)
                write_atomic(path, key, PRIVATE)
            return key
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); set JETLENS_CACHE to a folder of your own") from None


def make_folder(folder: Path) -> None:
    """Makes a folder that only this user can enter, or checks the one that is there.

    Raises:
        OutputError: it cannot be made, is another's, or others may write in it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); set JETLENS_CACHE to a folder of your own") from None
    except ModelError as error:
        raise OutputError(str(error)) from None


def check_folder(folder: Path) -> None:
    """Refuses a folder in which another could exchange files.

    Raises:
        OSError: it is not there.
        ModelError: it is another's, or others may write in it.
    """
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode):
        raise ModelError(f"{folder} is no folder; remove it, or set JETLENS_CACHE")
    if facts.st_uid != os.geteuid():
        raise ModelError(f"{folder} belongs to another user (uid {facts.st_uid}); set JETLENS_CACHE to a folder of your own")
    if facts.st_mode & 0o022:
        raise ModelError(f"{folder} can be written by others (mode {stat.S_IMODE(facts.st_mode):o}): chmod 700 {folder}")


def read_private(path: Path, *, size: int | None = None, largest: int = _LONGEST) -> bytes:
    """The bytes of a plain file that only this user can read or write; what was checked is what is read, whatever becomes of its name.

    Args:
        size: that it must have; anything up to ``largest`` if None.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ModelError: it is no plain file, another's, open to others or of another size.
    """
    # Neither a link is followed nor a pipe waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ModelError("it is no plain file")
        if facts.st_uid != os.geteuid():
            raise ModelError(f"it belongs to another user (uid {facts.st_uid})")
        if stat.S_IMODE(facts.st_mode) != PRIVATE:
            raise ModelError(f"its mode is {stat.S_IMODE(facts.st_mode):o} and not {PRIVATE:o}")
        if facts.st_size != size if size is not None else facts.st_size > largest:
            raise ModelError(f"it has {facts.st_size} bytes, {'up to ' + str(largest) if size is None else size} are right")
        return file.read(facts.st_size)


def _sign(content: Mapping[str, Any], key: bytes) -> str:
    return hmac.new(key, json.dumps(content, sort_keys=True).encode(), hashlib.sha256).hexdigest()
