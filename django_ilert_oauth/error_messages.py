"""What went wrong and what to do, in words for users and administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from . import exceptions

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

DECLINED = _(
    "Access was declined at ilert, so nothing was connected. If that was not what you wanted, "
    "connect again and allow it there."
)
STAYS_CONNECTED = _("Nothing was changed: %(account)s stays connected.")
RATE_LIMITED = _(
    "ilert is too busy to respond right now. Nothing was changed. Please wait a minute, then try "
    "again."
)
SERVER_ERROR = _(
    "ilert is having problems right now. Nothing was changed. Please try again in a few minutes."
)
MISCONFIGURED = _(
    "This site is not set up correctly for ilert. Trying again will not help: please tell this "
    "site's administrators."
)
GRANT_ENDED = _("ilert has ended this site's access to the account. Please reconnect it.")
SCOPE_MISSING = _(
    "This site is not allowed to do that in ilert for you. Please reconnect the account and allow "
    "more access, if your role at ilert includes it."
)
NOT_ACCEPTED = _("ilert did not accept what was sent. Please check it, then try again.")
UNCERTAIN = _(
    "ilert could not be reached, or failed to respond, so it may or may not have done that. "
    "Please check in a few minutes before you try again."
)
UNKNOWN = _(
    "Something went wrong. Please try again. If it happens again, tell this site's administrators."
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
        "The database failed, so no more requests were made. Try again once it accepts writes."
    ),
}

#: Where the code says more than the exception's class.
_BY_CODE: dict[str, StrOrPromise] = {
    "session_ended": _(
        "You were no longer logged in here, or your browser did not keep this site's cookie, so "
        "nothing was connected. Please log in and connect again."
    ),
    "state_used": _(
        "This request to connect has ended: it has already been used. If your account is not "
        "shown as connected here, please connect again."
    ),
    "read_only": _(
        "This is a copy of the site. Nothing is connected or refreshed here, so that the site "
        "itself keeps its access."
    ),
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
    exceptions.StateError: _(
        "This request to connect has ended: it took more than ten minutes, was started in another "
        "browser or before you logged in again, or your browser did not keep this site's cookie. "
        "Please connect again."
    ),
    exceptions.IlertUnavailableError: _(
        "ilert could not be reached. Nothing was changed. Please try again in a few minutes."
    ),
    exceptions.ReconnectRequiredError: GRANT_ENDED,
    exceptions.EndpointMismatchError: _(
        "The account belongs to a different ilert from the one that this site uses now. Please "
        "reconnect it."
    ),
    exceptions.TokenDecryptionError: _(
        "This site can no longer decrypt what it has stored for the account. Please reconnect it."
    ),
    exceptions.IlertOAuthError: _(
        "ilert did not accept the request. Please try again. If it happens again, tell this site's "
        "administrators."
    ),
    ImproperlyConfigured: MISCONFIGURED,
}
#: Of responses of ilert's REST API.
_BY_STATUS: dict[int, StrOrPromise] = {
    401: GRANT_ENDED,
    402: _(
        "Your plan at ilert does not include that, or its quota is used up. Whoever manages the "
        "plan can help."
    ),
    403: _("ilert does not let you do that. Your role there may not include it."),
    404: _("ilert does not have that, or does not let you see it. It may have been deleted."),
    429: RATE_LIMITED,
}


def explain(error: Exception) -> StrOrPromise:
    """Returns what to tell a user about any exception, without technical details.

    The string is lazy: it is translated when it is shown. Exceptions of this app and of
    ``requests``, and ``ImproperlyConfigured``, have messages of their own; all others share one.
    """
    if isinstance(error, exceptions.AuthorizationDeniedError) and error.code == "access_denied":
        return DECLINED
    if isinstance(error, exceptions.IlertOAuthError) and error.code in _BY_CODE:
        return _BY_CODE[error.code]
    by_class = (text for kind, text in _BY_CLASS.items() if isinstance(error, kind))
    return next(by_class, None) or _explain_request(error)


def _explain_request(error: Exception) -> StrOrPromise:
    # Not at the top: Django's start should not wait for it.
    from requests import RequestException

    if not isinstance(error, RequestException):
        return UNKNOWN
    if isinstance(error, exceptions.IlertScopeError):
        return SCOPE_MISSING
    status = 0 if error.response is None else error.response.status_code
    other = NOT_ACCEPTED if 400 <= status < 500 else UNCERTAIN
    return _BY_STATUS.get(status, other)
