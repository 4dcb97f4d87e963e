"""The configured clients of ilert, and whose grants each may send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

from django_ilert_oauth.conf import Client, conf
from django_ilert_oauth.exceptions import EndpointMismatchError, IlertUnavailableError
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount
from django_ilert_oauth.oauth.client import IlertClient


def require_writable() -> None:
    """Raises ``IlertUnavailableError`` on a copy of a site, which is to end no grant of its own."""
    if conf.read_only:
        raise IlertUnavailableError(
            "ILERT_OAUTH_READ_ONLY is on: nothing is connected, refreshed or revoked here.",
            code="read_only",
        )


def client_of(row: ConnectedAccount | AuthorizationRequest) -> Client:
    """The configured one that the grant belongs to; raises ``EndpointMismatchError``."""
    require_client(row)
    return conf.client(conf.client_keys()[row.api_url, row.client_id])


def require_client(row: ConnectedAccount | AuthorizationRequest) -> None:
    """Raises ``EndpointMismatchError`` where the client of the grant is not configured."""
    if not conf.has_client(row.api_url, row.client_id):
        raise EndpointMismatchError(
            "The account was connected at another ilert or by another client than the settings "
            "name. Add its client to ILERT_OAUTH_CLIENTS, or have the user reconnect."
        )


def open_client(client: Client) -> IlertClient:
    """Raises ``IlertUnavailableError`` where ``ILERT_OAUTH_READ_ONLY`` is on."""
    require_writable()
    return IlertClient(
        api_url=client.api_url,
        client_id=client.client_id,
        client_secrets=client.client_secrets,
        timeout=conf.timeout,
    )


def open_for_revocation(api_url: str) -> IlertClient:
    """ilert asks for no client credentials there: it works for a client that is gone, too.

    Raises ``IlertUnavailableError`` where ``ILERT_OAUTH_READ_ONLY`` is on.
    """
    require_writable()
    return IlertClient(api_url=api_url, client_id="", client_secrets=(), timeout=conf.timeout)


@contextmanager
def open_clients() -> Iterator[Callable[[ConnectedAccount], IlertClient]]:
    """For each account the client that its grant was given to, opened when it is first needed."""
    with ExitStack() as stack:

        @cache
        def opened(client: Client) -> IlertClient:
            return stack.enter_context(open_client(client))

        yield lambda account: opened(client_of(account))
