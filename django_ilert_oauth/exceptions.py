"""Everything that can go wrong.

::

    IlertOAuthError
      StateError                 the callback belongs to no authorization request started here
      AuthorizationDeniedError   ilert sent the user back with an error
      IlertUnavailableError      transient; nothing changed
      IlertRejectedError         ilert responded with an OAuth error
        ReconnectRequiredError   the grant is gone; only the user can fix it
      EndpointMismatchError      the account's tokens belong to another ilert
      TokenDecryptionError       no configured key opens this token

    requests.HTTPError
      IlertHTTPError             an error response of ilert's REST API
        IlertScopeError          403: a scope is missing
        IlertPlanError           402: the tenant's plan does not include it

The text of each is safe to log and to show: it holds no secret and, but for codes, nothing that
ilert sent.
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
    """The base of all errors but those of REST calls.

    ``code`` is machine-readable, and kept in an account's ``last_error``.
    """

    code = "error"

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code


class StateError(IlertOAuthError):
    """The state of a callback is missing, unknown, expired, used, or of another browser or user."""

    code = "invalid_state"


class AuthorizationDeniedError(IlertOAuthError):
    """The user denied access, or ilert did not ask; ``code`` is RFC 6749's (section 4.1.2.1)."""

    code = "access_denied"


class IlertUnavailableError(IlertOAuthError):
    """There is no usable response; trying again later may help.

    ``status`` is the HTTP status, 0 where no response came. ``retry_after`` is in seconds, where
    ilert named a time.
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

    ``code`` is RFC 6749's (section 5.2) or ``unknown_error``, ``status`` the HTTP status.
    """

    code = "rejected"

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message, code=code)
        self.status = status


class ReconnectRequiredError(IlertRejectedError):
    """The grant has ended, and only the user can give another one.

    ``status`` is 0 where no request was made, since the grant was known to have ended.
    """

    code = "invalid_grant"


class EndpointMismatchError(IlertOAuthError):
    """The account's tokens belong to another ilert or client; nothing was sent."""

    code = "endpoint_mismatch"


class TokenDecryptionError(IlertOAuthError):
    """No configured key opens a token: the key is lost, or it is another account's ciphertext."""

    code = "token_unreadable"
