"""The configured clients of ilert, and whose grants each may send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TypeVar

from django_ilert_oauth.conf import Client, conf
from django_ilert_oauth.exceptions import EndpointMismatchError, IlertUnavailableError
from django_ilert_oauth.models import AuthorizationRequest, ConnectedAccount
from django_ilert_oauth.oauth.client import IlertClient

Key = TypeVar("Key")


def require_writable() -> None:
    """Raises ``IlertUnavailableError`` on a copy of a site: it must not end the site's grants."""
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
            "The account belongs to an ilert or a client that is not configured. Add its client "
            "to ILERT_OAUTH_CLIENTS, or have the user reconnect."
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
def opened_once(open_: Callable[[Key], IlertClient]) -> Iterator[Callable[[Key], IlertClient]]:
    """Yields a function that opens the client for each key on first use; all are closed at last."""
    with ExitStack() as stack:
        yield cache(lambda key: stack.enter_context(open_(key)))


@contextmanager
def open_clients() -> Iterator[Callable[[ConnectedAccount], IlertClient]]:
    """Yields a function from account to client."""
    with opened_once(open_client) as opened:
        yield lambda account: opened(client_of(account))
