"""What a run keeps for each client: one that ilert does not know holds up no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache

from django_ilert_oauth.conf import conf
from django_ilert_oauth.flows._client import open_client
from django_ilert_oauth.oauth.client import IlertClient

from .credential_guard import CredentialGuard
from .rate_limiter import RateLimiter


@dataclass(eq=False)
class ClientState:
    name: str
    #: Shared by the clients of one ilert, which counts the requests of an address.
    limiter: RateLimiter
    guard: CredentialGuard
    #: Responses in a row that say nothing about an account.
    unanswered: int = 0
    #: Nothing more is asked for its accounts.
    has_ended: bool = False


#: By API URL and client ID, as in each row.
ClientStates = Mapping[tuple[str, str], ClientState]


def client_states(per_minute: int | None, *, mark_ended: bool) -> ClientStates:
    """One for each configured client. Raises ``ValueError`` for a rate limit below 0."""
    limiter_at = cache(lambda api_url: RateLimiter(per_minute))
    return {
        key: ClientState(name, limiter_at(key[0]), CredentialGuard(mark_ended=mark_ended))
        for key, name in conf.client_keys().items()
    }


@contextmanager
def opened(states: ClientStates) -> Iterator[Mapping[tuple[str, str], IlertClient]]:
    """At once, so that settings that are missing are told before anything is done."""
    with ExitStack() as stack:
        yield {
            key: stack.enter_context(open_client(conf.client(state.name)))
            for key, state in states.items()
        }
