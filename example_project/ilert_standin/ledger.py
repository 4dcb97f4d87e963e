import math
import secrets
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from .options import Client
from .people import Person
from .tokens import refresh_token

MAX_REFRESH_TOKENS = 10


@dataclass(eq=False)
class Grant:
    """`secret_needed` is false for what a client got by PKCE alone, without its secret."""

    person: Person
    scope: str
    client: Client
    secret_needed: bool
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    #: The live one; empty where there is none, or none any more.
    refresh_token: str = field(default="", repr=False)
    expires_at: float = math.inf


class Ledger:
    """A ledger knows each grant and the tokens that stand for it: one refresh token at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refresh_tokens: dict[str, Grant] = {}
        self._access_tokens: dict[str, tuple[Grant, float]] = {}
        self._of: dict[Person, list[Grant]] = defaultdict(list)
        self.lost: list[str] = []

    def live(self) -> dict[str, str]:
        """The id of each grant leads to its live refresh token."""
        return {grant.id: grant.refresh_token for person in self._of for grant in self.of(person)}

    def of(self, person: Person) -> list[Grant]:
        """The person's grants with a live refresh token come the oldest token first."""
        return [grant for grant in self._of[person] if not self._has_expired(grant)]

    def grant_of(self, refresh_token: str) -> Grant | None:
        """A token that is not live any more still stands for its grant."""
        return self._refresh_tokens.get(refresh_token)

    def is_live(self, refresh_token: str) -> bool:
        grant = self._refresh_tokens[refresh_token]
        return grant.refresh_token == refresh_token and not self._has_expired(grant)

    def find_access(self, access_token: str) -> Grant | None:
        grant, expires_at = self._access_tokens.get(access_token, (None, 0.0))
        return grant if expires_at > self._clock() else None

    def add_access(self, token: str, grant: Grant, expires_at: float) -> None:
        self._access_tokens[token] = (grant, expires_at)

    def rotate(self, grant: Grant, expires_at: float | None) -> str:
        """The new refresh token takes the place of the one before, if there was one."""
        self.end(grant)
        grant.refresh_token = token = refresh_token(expires_at)
        grant.expires_at = math.inf if expires_at is None else expires_at
        self._refresh_tokens[token] = grant
        self._of[grant.person].append(grant)
        mine = [each for each in self.of(grant.person) if each.client.id == grant.client.id]
        for oldest in mine[:-MAX_REFRESH_TOKENS]:
            self.end(oldest)
        return token

    def end(self, grant: Grant) -> None:
        """The grant's access tokens work on until they expire."""
        if grant.refresh_token:
            grant.refresh_token = ""
            self._of[grant.person].remove(grant)

    def end_reused(self, refresh_token: str) -> None:
        """Whoever sends a token that was rotated away may have stolen it (RFC 9700, 4.14.2)."""
        grant = self._refresh_tokens[refresh_token]
        if grant.refresh_token not in ("", refresh_token):
            self.end(grant)
            self.lost.append(grant.id)

    def end_all(self, person: Person, client_id: str) -> None:
        """The grants end together with their access tokens."""
        for grant in self.of(person):
            if grant.client.id == client_id:
                self.end(grant)
        self._access_tokens = {
            token: (grant, expires_at)
            for token, (grant, expires_at) in self._access_tokens.items()
            if (grant.person, grant.client.id) != (person, client_id)
        }

    def expire_access_tokens(self) -> None:
        self._access_tokens.clear()

    def _has_expired(self, grant: Grant) -> bool:
        return grant.expires_at <= self._clock()
