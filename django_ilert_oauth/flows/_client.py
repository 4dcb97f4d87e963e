"""The configured client of ilert, and whose grants it may send."""

from __future__ import annotations

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import EndpointMismatchError, IlertUnavailableError
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.client import IlertClient


def require_writable() -> None:
    """Raises ``IlertUnavailableError`` on a copy of a site, which is to end no grant of its own."""
    if conf.read_only:
        raise IlertUnavailableError(
            "ILERT_OAUTH_READ_ONLY is on: nothing is connected, refreshed or revoked here.",
            code="read_only",
        )


def open_client(api_url: str | None = None) -> IlertClient:
    """Raises ``IlertUnavailableError`` where ``ILERT_OAUTH_READ_ONLY`` is on."""
    require_writable()
    return IlertClient(
        api_url=api_url or conf.api_url,
        client_id=conf.client_id,
        client_secret=conf.client_secret,
        timeout=conf.timeout,
    )


def belongs_to_client(account: ConnectedAccount) -> bool:
    """Whether its grant was given to the configured client of the configured ilert."""
    return (account.api_url, account.client_id) == (conf.api_url, conf.client_id)


def require_same_client(account: ConnectedAccount) -> None:
    if not belongs_to_client(account):
        raise EndpointMismatchError(
            "The account was connected at another ilert than ILERT_OAUTH_API_URL names, or by "
            "another client than ILERT_OAUTH_CLIENT_ID. Set it back, or have the user reconnect."
        )
