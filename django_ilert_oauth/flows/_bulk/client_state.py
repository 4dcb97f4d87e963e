"""What a run keeps for each client: one that ilert does not know holds up no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from django_ilert_oauth.conf import conf
from django_ilert_oauth.exceptions import IlertOAuthError, IlertRejectedError, IlertUnavailableError
from django_ilert_oauth.flows._client import open_client, opened_once
from django_ilert_oauth.oauth.client import IlertClient

from .credential_guard import CLIENT_CODES, CredentialGuard
from .rate_limiter import RateLimiter

#: This many responses in a row that say nothing about an account are an outage.
OUTAGE = 10
#: HTTP statuses of a gateway, of a limit, and of no response at all.
OUTAGE_STATUSES = frozenset({0, 429, 502, 503, 504})
#: Of failures that ilert has nothing to do with.
OWN_CODES = frozenset({"busy", "row_locked", "not_stored", "database"})


@dataclass(eq=False)
class ClientState:
    name: str
    client: IlertClient
    #: Shared by the clients of one ilert, which counts the requests of an address.
    limiter: RateLimiter
    guard: CredentialGuard
    #: Responses in a row that say nothing about an account.
    outage_streak: int = 0
    #: Nothing more is asked for its accounts.
    has_ended: bool = False

    def note(self, error: IlertOAuthError | None) -> str:
        """After each response; why nothing more is to be asked, or empty."""
        if error is not None and error.code in CLIENT_CODES:
            return "invalid_client"
        if error is None or (isinstance(error, IlertRejectedError) and error.status):
            self.outage_streak = 0
        elif isinstance(error, IlertUnavailableError) and error.code not in OWN_CODES:
            self.outage_streak += error.status in OUTAGE_STATUSES
        return "outage" if self.outage_streak >= OUTAGE else ""


#: By API URL and client ID, as in each row.
ClientStates = Mapping[tuple[str, str], ClientState]


@contextmanager
def client_states(per_minute: int | None, *, mark_ended: bool) -> Iterator[ClientStates]:
    """One for each configured client. Raises ``ValueError`` for a rate limit below 0."""
    limiter_at = cache(lambda api_url: RateLimiter(per_minute))
    with opened_once(open_client) as client_of:
        yield {
            key: ClientState(
                name,
                client_of(conf.client(name)),
                limiter_at(key[0]),
                CredentialGuard(mark_ended=mark_ended),
            )
            for key, name in conf.client_keys().items()
        }
