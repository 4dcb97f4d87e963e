"""What a page asks for at connect: signed, so that no query made by hand adds to it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.core import signing

from . import scopes as scope_names

SALT = "ilert_oauth.scopes"
LIFETIME = timedelta(hours=1)


def sign(user: Any, scopes: str | Iterable[str], client: str = "") -> str:
    return signing.dumps([str(user.pk), scope_names.union(scopes), client], salt=SALT)


def unsign(user: Any, signed: str) -> str:
    """Empty for what is forged, was signed for another user, or is older than an hour."""
    return _parts(user, signed)[0]


def unsign_client(user: Any, signed: str) -> str:
    """As ``unsign``: the name of the client that is to be connected."""
    return _parts(user, signed)[1]


def is_current(user: Any, signed: str) -> bool:
    return any(_parts(user, signed))


def sign_again(user: Any, signed: str) -> str:
    """For a page that shows what it asks for, however old its link; else like ``unsign``."""
    scopes, client = _parts(user, signed, max_age=None)
    return sign(user, scopes, client) if scopes or client else ""


def _parts(user: Any, signed: str, max_age: timedelta | None = LIFETIME) -> tuple[str, str]:
    try:
        signed_for, scopes, client = signing.loads(signed, salt=SALT, max_age=max_age)
    except signing.BadSignature:
        return "", ""
    return (scopes, client) if signed_for == str(user.pk) else ("", "")
