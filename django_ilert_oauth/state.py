"""Attempts to connect, kept in the session from the way out to the way back.

An attempt is kept under the digest of its state and is used up before its code is sent. What stays
of it holds no secret: only which account came out, for a reload of the callback.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.sessions.backends.base import UpdateError
from django.http import HttpRequest

from .exceptions import StateError
from .secret import Secret

SESSION_KEY = "ilert_oauth"
#: For whoever reads the log.
ADVICE = (
    "If this happens often, the session cookie does not come back from ilert: "
    'SESSION_COOKIE_SAMESITE must not be "Strict", and users must visit the host of the redirect '
    "URI."
)
LIFETIME = timedelta(minutes=10)
MOST = 10


@dataclass(frozen=True)
class Attempt:
    state: Secret = field(repr=False)
    code_verifier: Secret = field(repr=False)
    requested_scope: str
    next_url: str


def begin(request: HttpRequest, *, requested_scope: str, next_url: str) -> Attempt:
    """Saved at once, so that two tabs do not overwrite each other's."""
    attempt = Attempt(
        state=Secret(secrets.token_urlsafe(32)),
        code_verifier=Secret(secrets.token_urlsafe(64)),
        requested_scope=requested_scope,
        next_url=next_url,
    )
    entry = {
        "user": str(request.user.pk),
        "begun_at": time.time(),
        "code_verifier": attempt.code_verifier,
        "requested_scope": requested_scope,
        "next_url": next_url,
    }
    entries = _entries(request)
    _save(request, dict([*entries.items(), (_digest(attempt.state), entry)][-MOST:]))
    return attempt


def consume(request: HttpRequest, state: str) -> Attempt:
    """Raises ``StateError`` unless this user began the attempt here and has not used it."""
    digest, entry = _find(request, state)
    if "code_verifier" not in entry:
        raise StateError("This attempt to connect was used already.", code="state_used")
    used = {"user": entry["user"], "begun_at": entry["begun_at"]}
    _save(request, {**_entries(request), digest: used})
    return Attempt(
        state=Secret(state),
        code_verifier=Secret(entry["code_verifier"]),
        requested_scope=entry["requested_scope"],
        next_url=entry["next_url"],
    )


def conclude(request: HttpRequest, attempt: Attempt, account_pk: Any) -> None:
    """Notes what came of a used attempt, beside what other tabs have written meanwhile."""
    entries = _entries(request)
    if account_pk is not None and (entry := entries.get(_digest(attempt.state))):
        entry["account"] = str(account_pk)
    request.session[SESSION_KEY] = entries


def was_used(request: HttpRequest, state: str) -> bool:
    entry = _entries(request).get(_digest(state))
    return entry is not None and "code_verifier" not in entry and _belongs(entry, request)


def remembered_account(request: HttpRequest, state: str) -> str | None:
    """The pk of what a used attempt connected. Raises ``StateError`` for an unknown one."""
    return _find(request, state)[1].get("account")


def next_url(request: HttpRequest, state: str) -> str:
    """Empty for an attempt that is unknown, used, or had none."""
    entry = _entries(request).get(_digest(state), {})
    return str(entry.get("next_url", ""))


def _find(request: HttpRequest, state: str) -> tuple[str, dict[str, Any]]:
    digest = _digest(state)
    entry = _entry_of(request, digest)
    if entry is None:
        raise StateError(f"This attempt to connect was not begun here, or has run out. {ADVICE}")
    return digest, entry


def _entry_of(request: HttpRequest, digest: str) -> dict[str, Any] | None:
    for known, entry in _entries(request).items():
        if hmac.compare_digest(known, digest) and _belongs(entry, request):
            return entry
    return None


def _belongs(entry: dict[str, Any], request: HttpRequest) -> bool:
    return request.user.is_authenticated and entry["user"] == str(request.user.pk)


def _entries(request: HttpRequest) -> dict[str, dict[str, Any]]:
    oldest = time.time() - LIFETIME.total_seconds()
    # Read anew, since another tab may have written after this request began.
    session = type(request.session)(request.session.session_key)
    kept = session.get(SESSION_KEY, {})
    return {
        digest: {name: _masked(name, value) for name, value in entry.items()}
        for digest, entry in kept.items()
        if entry["begun_at"] > oldest
    }


def _masked(name: str, value: Any) -> Any:
    return Secret(value) if name == "code_verifier" else value


def _save(request: HttpRequest, entries: dict[str, dict[str, Any]]) -> None:
    request.session[SESSION_KEY] = entries
    try:
        request.session.save()
    except UpdateError:
        request.session.flush()
    if SESSION_KEY not in request.session:
        raise StateError("The session has ended. Log in and try again.", code="session_ended")


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "replace")).hexdigest()
