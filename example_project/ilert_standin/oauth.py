import base64
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .errors import OAuthError
from .options import Options
from .people import Person
from .tokens import APP_ID, access_token, refresh_token

Answer = dict[str, object]
MAX_REFRESH_TOKENS = 10


@dataclass(frozen=True)
class Code:
    person: Person
    scope: str
    challenge: str
    expires_at: float


@dataclass(frozen=True)
class Grant:
    """`secret_needed` is false for what an app got by PKCE alone, without its secret."""

    person: Person
    scope: str
    expires_at: float
    secret_needed: bool


class Grants:
    """Every code and token issued, and the three endpoints that deal in them."""

    def __init__(self, options: Options, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._codes: dict[str, Code] = {}
        self._access_tokens: dict[str, Grant] = {}
        self._refresh_tokens: dict[str, Grant] = {}

    def issue_code(self, person: Person, scope: str, challenge: str) -> str:
        code = secrets.token_hex(14)
        expires_at = self._clock() + self._options.code_lifetime
        self._codes[code] = Code(person, scope, challenge, expires_at)
        return code

    def issue_tokens(self, person: Person, scope: str, *, secret_needed: bool = True) -> Answer:
        refresh_answer = self._refresh_answer(person, scope, secret_needed)
        return self._access_answer(person, scope) | refresh_answer

    def token(self, form: Mapping[str, str]) -> Answer:
        grant_type = _required(form, "grant_type")
        if grant_type == "authorization_code":
            return self._exchange(form)
        if grant_type == "refresh_token":
            return self._refresh(form)
        raise OAuthError("unsupported_grant_type", "Provided grant_type is not supported")

    def token_info(self, form: Mapping[str, str]) -> Answer:
        grant = self.find(_required(form, "token"))
        if grant is None:
            return {"active": False}
        return {
            "active": True,
            "tenant_id": grant.person.tenant,
            "username": grant.person.username,
            "scope": grant.scope,
            "app_id": APP_ID,
        }

    def revoke(self, form: Mapping[str, str]) -> None:
        self._refresh_tokens.pop(_required(form, "token"), None)

    def find(self, token: str) -> Grant | None:
        """What a live access token stands for."""
        return self._live(self._access_tokens, token)

    def of(self, person: Person) -> list[Grant]:
        return [self._refresh_tokens[token] for token in self._tokens_of(person)]

    def revoke_all(self, person: Person) -> None:
        for token in self._tokens_of(person):
            del self._refresh_tokens[token]

    def expire_access_tokens(self) -> None:
        self._access_tokens.clear()

    def _exchange(self, form: Mapping[str, str]) -> Answer:
        secret_given = self._authenticate(form)
        code = self._codes.pop(_required(form, "code"), None)
        if code is None or code.expires_at <= self._clock():
            raise OAuthError("invalid_grant", "Provided code is unknown")
        _verify(code.challenge, form.get("code_verifier", ""))
        if not (secret_given or code.challenge):
            raise OAuthError("invalid_request", "client_secret is missing")
        if secret_given or "offline_access" in code.scope.split(" "):
            return self.issue_tokens(code.person, code.scope, secret_needed=secret_given)
        return self._access_answer(code.person, code.scope)

    def _refresh(self, form: Mapping[str, str]) -> Answer:
        secret_given = self._authenticate(form)
        token = _required(form, "refresh_token")
        grant = self._live(self._refresh_tokens, token)
        if grant is None:
            raise OAuthError("invalid_grant", "Provided refresh token is unknown")
        if grant.secret_needed and not secret_given:
            raise OAuthError("invalid_request", "client_secret is missing")
        if not self._options.rotate:
            return self._access_answer(grant.person, grant.scope)
        del self._refresh_tokens[token]
        return self.issue_tokens(grant.person, grant.scope, secret_needed=grant.secret_needed)

    def _authenticate(self, form: Mapping[str, str]) -> bool:
        """Whether the secret was given; a wrong one never passes."""
        client_id = _required(form, "client_id")
        secret = form.get("client_secret")
        if client_id != self._options.client_id or secret not in (
            None,
            self._options.client_secret,
        ):
            raise OAuthError("invalid_grant", "Provided client credentials are wrong")
        return secret is not None

    def _access_answer(self, person: Person, scope: str) -> Answer:
        lifetime = self._options.access_token_lifetime
        expires_at = self._clock() + lifetime
        token = access_token(person, scope, expires_at)
        self._access_tokens[token] = Grant(person, scope, expires_at, secret_needed=False)
        return {
            "token_type": "Bearer",
            "access_token": token,
            "expires_in": lifetime,
            "scope": scope,
        }

    def _refresh_answer(self, person: Person, scope: str, secret_needed: bool) -> Answer:
        lifetime = self._options.refresh_token_lifetime
        expires_at = None if lifetime is None else self._clock() + lifetime
        token = refresh_token(expires_at)
        self._refresh_tokens[token] = Grant(
            person, scope, math.inf if expires_at is None else expires_at, secret_needed
        )
        for oldest in self._tokens_of(person)[:-MAX_REFRESH_TOKENS]:
            del self._refresh_tokens[oldest]
        answer: Answer = {"refresh_token": token}
        return answer if lifetime is None else answer | {"refresh_token_expires_in": lifetime}

    def _live(self, grants: Mapping[str, Grant], token: str) -> Grant | None:
        grant = grants.get(token)
        return grant if grant and grant.expires_at > self._clock() else None

    def _tokens_of(self, person: Person) -> list[str]:
        """Live refresh tokens, the oldest first."""
        now = self._clock()
        return [
            token
            for token, grant in self._refresh_tokens.items()
            if grant.person == person and grant.expires_at > now
        ]


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if not value:
        raise OAuthError("invalid_request", f"{name} is missing")
    return value


def challenge_of(verifier: str) -> str:
    """RFC 7636, method S256."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _verify(challenge: str, verifier: str) -> None:
    well_formed = re.fullmatch(r"[\w.~-]{43,128}", verifier, re.ASCII)
    expected = challenge_of(verifier) if well_formed else verifier
    if not hmac.compare_digest(challenge.encode(), expected.encode()):
        raise OAuthError("invalid_grant", "Provided code_verifier does not match")
