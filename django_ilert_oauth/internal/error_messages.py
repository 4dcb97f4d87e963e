"""What went wrong and what to do, in the words of users and administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from django_ilert_oauth.exceptions import (
    AuthorizationDeniedError,
    IlertUnavailableError,
    ReconnectRequiredError,
    StateError,
)

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

DECLINED = _(
    "Access was declined at ilert, so nothing was connected. If that was not what you wanted, "
    "connect again and allow it there."
)
LOGGED_OUT = _(
    "You were not logged in here any more, or your browser did not keep this site's cookie, so "
    "nothing was connected. Please log in and connect again."
)
USED = _(
    "This request to connect has ended: it was used already. If your account is not shown as "
    "connected here, please connect again."
)
EXPIRED = _(
    "This request to connect has ended: it took more than ten minutes, was begun in another "
    "browser or before you logged in again, or your browser did not keep this site's cookie. "
    "Please connect again."
)
RATE_LIMITED = _(
    "ilert is too busy to respond right now. Nothing was changed. Please wait a minute, then try "
    "again."
)
SERVER_ERROR = _(
    "ilert has an error of its own right now. Nothing was changed. Please try again in a few "
    "minutes."
)
UNREACHABLE = _(
    "ilert could not be reached. Nothing was changed. Please try again in a few minutes."
)
MISCONFIGURED = _(
    "This site is not set up correctly for ilert, so nothing was connected. Trying again will not "
    "help: please tell this site's administrators, and give them the reference."
)
READ_ONLY = _(
    "This is a copy of the site. Nothing can be connected here, so that the site itself keeps its "
    "access."
)
GRANT_ENDED = _(
    "ilert has ended the new access together with the one before. Please connect once more."
)
REJECTED = _(
    "ilert did not accept the request, so nothing was connected. Please try again. If it happens "
    "again, tell this site's administrators, and give them the reference."
)

#: Why a run over many accounts ended early, by ``RunResult.stopped``.
STOPPED: dict[str, StrOrPromise] = {
    "credentials": _(
        "ilert refused every grant, so no account was marked. Either ILERT_OAUTH_CLIENT_ID and "
        "ILERT_OAUTH_CLIENT_SECRET are wrong, or all of these grants have ended: then run "
        "refresh_ilert_tokens --mark-ended."
    ),
    "invalid_client": _(
        "ilert does not know this client. Check ILERT_OAUTH_CLIENT_ID and "
        "ILERT_OAUTH_CLIENT_SECRET."
    ),
    "outage": _("ilert cannot be reached. All tokens are kept. Try again later."),
    "database": _(
        "The database failed, so no more requests were made. Try again once it can be written to."
    ),
}

#: Where the code says more than the exception's class.
_BY_CODE: dict[str, StrOrPromise] = {
    "session_ended": LOGGED_OUT,
    "state_used": USED,
    "read_only": READ_ONLY,
    "rate_limited": RATE_LIMITED,
    "server_error": SERVER_ERROR,
    "temporarily_unavailable": SERVER_ERROR,
    "insecure_endpoint": MISCONFIGURED,
    "invalid_client": MISCONFIGURED,
    "invalid_request": MISCONFIGURED,
    "invalid_scope": MISCONFIGURED,
    "unauthorized_client": MISCONFIGURED,
    "unsupported_grant_type": MISCONFIGURED,
    "unsupported_response_type": MISCONFIGURED,
}
_BY_CLASS: dict[type[Exception], StrOrPromise] = {
    StateError: EXPIRED,
    IlertUnavailableError: UNREACHABLE,
    ReconnectRequiredError: GRANT_ENDED,
    ImproperlyConfigured: MISCONFIGURED,
}


def error_message(error: Exception) -> StrOrPromise:
    if isinstance(error, AuthorizationDeniedError) and error.code == "access_denied":
        return DECLINED
    by_class = (text for kind, text in _BY_CLASS.items() if isinstance(error, kind))
    return _BY_CODE.get(getattr(error, "code", "")) or next(by_class, REJECTED)
