"""The exceptions of this app.

::

    IlertOAuthError
      StateError                 the callback belongs to no authorization request started here
      AuthorizationDeniedError   ilert sent the user back with an error
      IlertUnavailableError      transient; nothing changed
      IlertRejectedError         ilert responded with an OAuth error
        ReconnectRequiredError   the grant is gone; only the user can fix it
      EndpointMismatchError      the account's tokens belong to another ilert
      TokenDecryptionError       no configured key decrypts this token

    requests.HTTPError
      IlertHTTPError             an error response of ilert's REST API
        IlertScopeError          403: a scope is missing
        IlertPlanError           402: the tenant's plan does not include it

The text of each is safe to log: it contains no secret and, except for codes, nothing that ilert
sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._http_exceptions import IlertHTTPError, IlertPlanError, IlertScopeError
else:

    def __getattr__(name):
        """The exceptions of REST calls are imported when they are asked for.

        They bring along ``requests``, which a start of Django should not wait for.
        """
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _http_exceptions

        return getattr(_http_exceptions, name)


__all__ = [
    "AuthorizationDeniedError",
    "EndpointMismatchError",
    "IlertHTTPError",
    "IlertOAuthError",
    "IlertPlanError",
    "IlertRejectedError",
    "IlertScopeError",
    "IlertUnavailableError",
    "ReconnectRequiredError",
    "StateError",
    "TokenDecryptionError",
]


class IlertOAuthError(Exception):
    """The base class of all exceptions except those of REST calls.

    ``code`` is a machine-readable string, such as ``invalid_grant``; that of a failed refresh is
    stored as the account's ``last_error``.
    """

    code = "error"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class StateError(IlertOAuthError):
    """The callback's state is missing, unknown, expired, used, or from another browser or user."""

    code = "invalid_state"


class AuthorizationDeniedError(IlertOAuthError):
    """The user declined, or ilert did not ask; ``code`` is from RFC 6749, section 4.1.2.1."""

    code = "access_denied"


class IlertUnavailableError(IlertOAuthError):
    """There was no usable response; trying again later may help.

    ``status`` is the HTTP status, or 0 without a response. ``retry_after`` is the number of seconds
    that ilert asked to wait, or None.
    """

    code = "unavailable"

    def __init__(
        self, message: str, *, code: str = "", status: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.retry_after = retry_after


class IlertRejectedError(IlertOAuthError):
    """ilert responded with an OAuth error.

    ``code`` is from RFC 6749, section 5.2, or ``unknown_error``; ``status`` is the HTTP status.
    """

    code = "rejected"

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message, code=code)
        self.status = status


class ReconnectRequiredError(IlertRejectedError):
    """The grant has ended: the user has to reconnect the account.

    ``status`` is 0 if no request was made because the grant was already known to have ended.
    """

    code = "invalid_grant"


class EndpointMismatchError(IlertOAuthError):
    """The account's tokens belong to another ilert or client; nothing was sent."""

    code = "endpoint_mismatch"


class TokenDecryptionError(IlertOAuthError):
    """No configured key decrypts a token: the key was removed, or it is from another row."""

    code = "token_unreadable"
