"""What went wrong on the way to a connected account, and what to do, in the user's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from .exceptions import AuthorizationDeniedError, IlertUnavailableError, StateError

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise

DENIED = _(
    "ilert was told not to give access, so nothing was connected. If that was not what you "
    "wanted, connect again and allow it there."
)
LOGGED_OUT = _(
    "You were not logged in here any more, or your browser did not keep this site's cookie, so "
    "nothing was connected. Please log in and connect again."
)
USED = _(
    "This attempt to connect has ended: it was used already. If your account is not shown as "
    "connected here, please connect again."
)
ENDED = _(
    "This attempt to connect has ended: it took more than ten minutes, was begun in another "
    "browser or before you logged in again, or your browser did not keep this site's cookie. "
    "Please connect again."
)
BUSY = _(
    "ilert is too busy to answer right now. Nothing was changed. Please wait a minute, then try "
    "again."
)
TROUBLE = _(
    "ilert has trouble of its own right now. Nothing was changed. Please try again in a few "
    "minutes."
)
UNREACHABLE = _(
    "ilert could not be reached. Nothing was changed. Please try again in a few minutes."
)
SET_UP = _(
    "This site is not set up correctly for ilert, so nothing was connected. Trying again will not "
    "help: please tell this site's administrators, and give them the reference."
)
REFUSED = _(
    "ilert did not accept the request, so nothing was connected. Please try again. If it happens "
    "again, tell this site's administrators, and give them the reference."
)

#: Where the code says more than the exception's class.
_BY_CODE: dict[str, StrOrPromise] = {
    "session_ended": LOGGED_OUT,
    "state_used": USED,
    "rate_limited": BUSY,
    "server_error": TROUBLE,
    "temporarily_unavailable": TROUBLE,
    "insecure_endpoint": SET_UP,
    "invalid_client": SET_UP,
    "invalid_request": SET_UP,
    "invalid_scope": SET_UP,
    "unauthorized_client": SET_UP,
    "unsupported_grant_type": SET_UP,
    "unsupported_response_type": SET_UP,
}
_BY_CLASS: dict[type[Exception], StrOrPromise] = {
    StateError: ENDED,
    IlertUnavailableError: UNREACHABLE,
    ImproperlyConfigured: SET_UP,
}


def explain(error: Exception) -> StrOrPromise:
    if isinstance(error, AuthorizationDeniedError) and error.code == "access_denied":
        return DENIED
    by_class = (text for kind, text in _BY_CLASS.items() if isinstance(error, kind))
    return _BY_CODE.get(getattr(error, "code", "")) or next(by_class, REFUSED)
