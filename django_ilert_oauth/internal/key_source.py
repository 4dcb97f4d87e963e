"""The encryption keys: those in the setting, or what the callable returns that it names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_ilert_oauth.oauth.secret import Secret

from .setting_values import PREFIX, fernet_keys, get

logger = logging.getLogger(__name__)

#: Seconds until a vault that had no other keys is asked again: a page may list many bad rows.
PAUSE = 60.0


class KeySource:
    """A callable is asked once, and again where its keys do not open a token."""

    def __init__(self) -> None:
        self._asked: Any = None
        self._keys: list[Secret] = []
        self._paused_until = 0.0
        #: Of the list that ``_keys`` was made of, in place of the list.
        self._hash: int | None = None

    def keys(self) -> list[Secret] | None:
        """Empty where none are given, None where they are malformed.

        Raises ``ImproperlyConfigured`` where the callable cannot be imported or raises.
        """
        if not _is_callable():
            return self._validated()
        if self._asked == get("ENCRYPTION_KEYS"):
            return self._keys
        return self._take(_ask())

    def _take(self, keys: list[Secret] | None) -> list[Secret] | None:
        """In place of those of before, if there are any."""
        if keys:
            self._keys, self._hash, self._paused_until = keys, None, 0.0
            self._asked = get("ENCRYPTION_KEYS")
        return keys

    def _validated(self) -> list[Secret] | None:
        """Once for as long as the setting stays the same: every use of a token comes here."""
        current = _hash(get("ENCRYPTION_KEYS"))
        if current is None or current != self._hash:
            keys = fernet_keys(get("ENCRYPTION_KEYS"))
            if not keys:
                return keys
            self._keys, self._hash = keys, current
        return self._keys

    def has_others(self, than: list[Secret]) -> bool:
        """Whether the callable, asked again by this thread or another, has returned other keys."""
        if not _is_callable():
            return False
        if self._keys == than and time.monotonic() >= self._paused_until:
            self._ask_again()
        return self._keys != than

    def _ask_again(self) -> None:
        before = self._keys
        try:
            # Meanwhile other threads go on with those of before: they may have a token to store.
            self._take(_ask())
        except ImproperlyConfigured as error:
            logger.warning("%s The previous keys are used.", error)
        if self._keys == before:
            self._paused_until = time.monotonic() + PAUSE


def _hash(keys: Any) -> int | None:
    is_list = isinstance(keys, list | tuple) and all(isinstance(key, str | bytes) for key in keys)
    return hash(tuple(keys)) if is_list else None


def _is_callable() -> bool:
    """A dotted path stands for one, too; no key has a dot."""
    value = get("ENCRYPTION_KEYS")
    return callable(value) or (isinstance(value, str) and "." in value)


def _ask() -> list[Secret] | None:
    source: Callable[[], Any] | str = get("ENCRYPTION_KEYS")
    try:
        return fernet_keys((import_string(source) if isinstance(source, str) else source)())
    except Exception as error:
        failure = type(error).__name__
    # Raised from here: the frames of a vault's client may hold the keys.
    raise ImproperlyConfigured(f"{PREFIX}ENCRYPTION_KEYS could not be loaded: {failure}.")
