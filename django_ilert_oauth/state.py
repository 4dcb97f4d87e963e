"""Attempts to connect, kept in the session from the way out to the way back.

An attempt is kept under the digest of its state. Before its code is sent it is taken, in a table of
the database: whatever keeps the sessions, only one callback takes it, and only once.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import IntegrityError, models, router, transaction
from django.http import HttpRequest
from django.utils import timezone

from .conf import conf
from .exceptions import StateError
from .models import UsedAttempt
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
#: How long a used one is remembered: longer than any clock of the site is wrong by.
MEMORY = timedelta(days=1)


@dataclass(frozen=True)
class Attempt:
    state: Secret = field(repr=False)
    code_verifier: Secret = field(repr=False)
    api_url: str
    requested_scope: str


@dataclass(frozen=True)
class Wishes:
    """What an attempt was begun for; ``account`` is the key of one that is to be reconnected."""

    requested_scope: str
    next_url: str
    account: str


def begin(
    request: HttpRequest, *, requested_scope: str, next_url: str, account_pk: Any = None
) -> Attempt:
    """Saved at once, so that two tabs do not overwrite each other's."""
    attempt = Attempt(
        state=Secret(secrets.token_urlsafe(32)),
        code_verifier=Secret(secrets.token_urlsafe(64)),
        api_url=conf.api_url,
        requested_scope=requested_scope,
    )
    entry = {
        "user": str(request.user.pk),
        "begun_at": time.time(),
        "code_verifier": attempt.code_verifier,
        "api_url": attempt.api_url,
        "requested_scope": requested_scope,
        "next_url": next_url,
        "account": "" if account_pk is None else str(account_pk),
    }
    entries = _entries(request)
    _save(request, dict([*entries.items(), (_digest(attempt.state), entry)][-MOST:]))
    return attempt


def consume(request: HttpRequest, state: str) -> Attempt:
    """Raises ``StateError`` unless this user began the attempt here and nobody has used it.

    Inside a transaction of the caller it is used only with the commit; until then another callback
    of the same attempt waits here.
    """
    digest, entry = _find(request, state)
    is_first = "code_verifier" in entry and _take(digest)
    _save(request, _entries_after(request, digest))
    if not is_first:
        raise StateError("This attempt to connect was used already.", code="state_used")
    if entry["api_url"] != conf.api_url:
        raise StateError(
            "ILERT_OAUTH_API_URL has changed since this attempt began, and the code is for the "
            "ilert of before. Connect again.",
            code="endpoint_mismatch",
        )
    return Attempt(
        state=Secret(state),
        code_verifier=Secret(entry["code_verifier"]),
        api_url=entry["api_url"],
        requested_scope=entry["requested_scope"],
    )


def remember(attempt: Attempt, account_pk: Any) -> None:
    """What a used attempt has connected, for a reload of the callback."""
    _used_attempts().filter(digest=_digest(attempt.state)).update(account_pk=account_pk)


def conclude(request: HttpRequest, state: str) -> None:
    """Has the request end with what other tabs have written meanwhile, and no used verifier."""
    request.session.update(dict(_session_of_now(request).items()))
    request.session[SESSION_KEY] = _entries_after(request, _digest(state))


def remembered_account(request: HttpRequest, state: str) -> int | None:
    """The pk of what a used attempt connected. Raises ``StateError`` for an unknown one."""
    digest, _entry = _find(request, state)
    return _used_attempts().filter(digest=digest).values_list("account_pk", flat=True).first()


def wishes(request: HttpRequest, state: str) -> Wishes | None:
    """None for an attempt that is unknown or used."""
    digest = _digest(state)
    entry = _entry_of(request, digest) or {}
    if "code_verifier" not in entry or _used_attempts().filter(digest=digest).exists():
        return None
    return Wishes(entry["requested_scope"], entry["next_url"], entry["account"])


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


def _take(digest: str) -> bool:
    """True for one caller only: no database lets two rows have the same key."""
    try:
        with transaction.atomic(using=_used_attempts().db):
            _used_attempts().create(digest=digest)
            transaction.on_commit(_forget_old, using=_used_attempts().db, robust=True)
    except IntegrityError:
        return False
    return True


def _forget_old() -> None:
    _used_attempts().filter(used_at__lt=timezone.now() - MEMORY).delete()


def _used_attempts() -> models.QuerySet[UsedAttempt]:
    """Never those of a replica, which may not know yet."""
    return UsedAttempt.objects.using(router.db_for_write(UsedAttempt))


def _entries(request: HttpRequest) -> dict[str, dict[str, Any]]:
    oldest = time.time() - LIFETIME.total_seconds()
    kept = _session_of_now(request).get(SESSION_KEY, {})
    return {
        digest: {name: _masked(name, value) for name, value in entry.items()}
        for digest, entry in kept.items()
        if entry["begun_at"] > oldest
    }


def _session_of_now(request: HttpRequest) -> SessionBase:
    """Another tab may have written after this request began."""
    return type(request.session)(request.session.session_key)


def _entries_after(request: HttpRequest, used: str) -> dict[str, dict[str, Any]]:
    """Of the used attempt only whose it was is kept, so that a reload is told from a forgery."""
    entries = _entries(request)
    if used in entries:
        entries[used] = {name: entries[used][name] for name in ("user", "begun_at")}
    return entries


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
