"""What the settings may be: each rule raises ``ImproperlyConfigured`` in one clear line.

A secret is in no variable of a frame that raises: error trackers show those.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import lru_cache
from math import isfinite
from typing import Any, cast
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from django_ilert_oauth.oauth.secret import Secret

PREFIX = "ILERT_OAUTH_"
#: The name of the client that the flat settings describe.
DEFAULT_CLIENT = "default"
CLIENT_KEYS = ("CLIENT_ID", "CLIENT_SECRET", "API_URL", "APP_URL", "TENANT_URL")

_CLIENT_NAME = re.compile(r"[\w-]+")


def get(name: str, default: Any = None) -> Any:
    """As the site has set it; ``CLIENTS.staging.API_URL`` is a key in a client in a setting."""
    if "." not in name:
        return getattr(settings, PREFIX + name, default)
    first, *keys = name.split(".")
    value = getattr(settings, PREFIX + first, {} if keys else default)
    for key in keys:
        value = value.get(key, default)
    return value


def missing(name: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{PREFIX}{name} is not set.")


def malformed(name: str, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{PREFIX}{name} must be {wanted}.")


def required_string(name: str) -> str:
    # In no variable: error trackers show those of each frame that an exception passes.
    if not get(name):
        raise missing(name)
    if not isinstance(get(name), str):
        raise malformed(name, "a string")
    if get(name) != get(name).strip():
        raise malformed(name, "a string without white space at its ends")
    return str(get(name))


def client_secrets(name: str) -> tuple[Secret, ...]:
    if not get(name):
        raise missing(name)
    secrets = _secrets([get(name)] if isinstance(get(name), str) else get(name), _is_plain)
    if secrets is None:
        wanted = "a string of printable characters without white space at its ends"
        raise malformed(name, f"{wanted}, or a list of such strings")
    return tuple(secrets)


def _secrets(texts: Any, is_valid: Callable[[str], bool]) -> list[Secret] | None:
    """None for what is malformed: raised from here, an error would carry the secrets."""
    if not isinstance(texts, list | tuple):
        return None
    is_good = all(isinstance(text, str) and is_valid(text) for text in texts)
    return [Secret(text) for text in texts] if is_good else None


def client_names() -> list[str]:
    """Those in ``CLIENTS``, once each is a dict with no other keys than a client has."""
    if not isinstance(get("CLIENTS", {}), dict):
        raise malformed("CLIENTS", "a dict of clients by their names")
    names = list(get("CLIENTS", {}))
    for name in names:
        if not (isinstance(name, str) and _CLIENT_NAME.fullmatch(name)) or name == DEFAULT_CLIENT:
            raise malformed("CLIENTS", 'a dict by names such as "staging"; "default" is taken')
        if not isinstance(get(f"CLIENTS.{name}"), dict):
            raise malformed(f"CLIENTS.{name}", f"a dict with {', '.join(CLIENT_KEYS)}")
        if not get(f"CLIENTS.{name}").keys() <= set(CLIENT_KEYS):
            raise malformed(f"CLIENTS.{name}", f"a dict with only {', '.join(CLIENT_KEYS)}")
    return names


def keys_of_client(name: str) -> str:
    """What stands before the names of a client's settings."""
    return "" if name == DEFAULT_CLIENT else f"CLIENTS.{name}."


def sequence(name: str, value: Any) -> Sequence[Any]:
    if value is None or isinstance(value, list | tuple):
        return value or ()
    raise malformed(name, "a list or tuple")


def fernet_keys(keys: Any) -> list[Secret] | None:
    """None for what is malformed: raised from here, an error would carry the keys."""
    if keys is None or keys == "":
        return []
    if isinstance(keys, list | tuple):
        keys = [key.decode("ascii", "replace") if isinstance(key, bytes) else key for key in keys]
    return _secrets(keys, _is_fernet_key)


def _is_plain(text: str) -> bool:
    return text != "" and text == text.strip() and text.isprintable()


def _is_fernet_key(text: str) -> bool:
    try:
        return len(text) == 44 and len(base64.urlsafe_b64decode(text)) == 32
    except (binascii.Error, ValueError):
        return False


def base_url(name: str, default: str) -> str:
    return _without_query(name, get(name, default)).rstrip("/")


def tenant_url(name: str, default: str) -> str:
    pattern = get(name, default)
    if not isinstance(pattern, str) or "{tenant}" not in pattern:
        raise malformed(name, 'a URL such as "https://{tenant}.ilert.com"')
    _without_query(name, pattern.replace("{tenant}", "tenant"))
    return pattern.rstrip("/")


def _without_query(name: str, value: Any) -> str:
    if "?" in url(name, value):
        raise malformed(name, "a URL without a query such as https://example.com")
    return str(value)


def url(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _is_url(value):
        raise malformed(name, "a full URL such as https://example.com/path")
    return value


@lru_cache
def _is_url(value: str) -> bool:
    """Plainly spelt, so that everybody reads the same host in it."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018
    except ValueError:
        return False
    is_plain = value.isprintable() and not set(value) & set(" \\@#")
    return is_plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def boolean(name: str, default: bool) -> bool:
    value = get(name, default)
    if not isinstance(value, bool):
        raise malformed(name, "True or False")
    return value


def function(name: str) -> Callable[..., Any] | None:
    """A function, or what a dotted path leads to."""
    value = get(name)
    try:
        found = import_string(value) if isinstance(value, str) else value
    except ImportError as error:
        raise ImproperlyConfigured(f"{PREFIX}{name} cannot be imported: {error}.") from error
    if not (found is None or callable(found)):
        raise malformed(name, "a function, or its dotted path")
    return cast(Callable[..., Any] | None, found)


def duration(name: str, default: timedelta) -> timedelta:
    duration = get(name, default)
    if not isinstance(duration, timedelta) or duration < timedelta(0):
        raise malformed(name, "a timedelta, such as timedelta(minutes=5)")
    return duration


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
