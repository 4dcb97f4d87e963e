import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .errors import OAuthError
from .ledger import Grant, Ledger
from .options import Client, Options
from .people import Person
from .tokens import access_token

Body = dict[str, object]


@dataclass(frozen=True)
class Code:
    person: Person
    scope: str
    challenge: str
    expires_at: float
    client_id: str


class Grants(Ledger):
    """Three endpoints deal in codes and tokens."""

    def __init__(self, options: Options, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._options = options
        self._codes: dict[str, Code] = {}

    def issue_code(self, person: Person, scope: str, challenge: str) -> str:
        code = secrets.token_hex(14)
        expires_at = self._clock() + self._options.code_lifetime
        self._codes[code] = Code(person, scope, challenge, expires_at, self._options.client_id)
        return code

    def bind_code(self, code: str, client_id: str) -> None:
        """The code is for the client that asked for it, where that is not the first."""
        self._codes[code] = replace(self._codes[code], client_id=client_id)

    def issue_tokens(self, grant: Grant) -> Body:
        return self._access_body(grant) | self._refresh_body(grant)

    def token(self, form: Mapping[str, str]) -> Body:
        grant_type = _required(form, "grant_type")
        if grant_type == "authorization_code":
            return self._exchange(form)
        if grant_type == "refresh_token":
            return self._refresh(form)
        raise OAuthError("unsupported_grant_type", "Provided grant_type is not supported")

    def token_info(self, form: Mapping[str, str]) -> Body:
        grant = self.find_access(_required(form, "token"))
        if grant is None:
            return {"active": False}
        return {
            "active": True,
            "tenant_id": grant.person.tenant,
            "username": grant.person.username,
            "scope": grant.scope,
            "app_id": grant.client.app_id,
        }

    def revoke(self, form: Mapping[str, str]) -> None:
        """A token that is unknown is no error (RFC 7009, 2.2)."""
        token = _required(form, "token")
        grant = self.grant_of(token)
        if grant and self._options.revoke_ends_all:
            self.end_all(grant.person, grant.client.id)
        elif grant and grant.refresh_token == token:
            self.end(grant)

    def _exchange(self, form: Mapping[str, str]) -> Body:
        client, secret_given = self._authenticate(form)
        code = self._codes.get(_required(form, "code"))
        if code is None or code.expires_at <= self._clock() or code.client_id != client.id:
            raise OAuthError("invalid_grant", "Provided code is unknown")
        del self._codes[form["code"]]
        _verify(code.challenge, form.get("code_verifier", ""))
        if not (secret_given or code.challenge):
            raise OAuthError("invalid_request", "client_secret is missing")
        grant = Grant(code.person, code.scope, client, secret_given)
        if secret_given or "offline_access" in code.scope.split(" "):
            return self.issue_tokens(grant)
        return self._access_body(grant)

    def _refresh(self, form: Mapping[str, str]) -> Body:
        client, secret_given = self._authenticate(form)
        grant = self._grant_to_refresh(client, _required(form, "refresh_token"))
        if grant.secret_needed and not secret_given:
            raise OAuthError("invalid_request", "client_secret is missing")
        return self.issue_tokens(grant) if self._options.rotate else self._access_body(grant)

    def _grant_to_refresh(self, client: Client, token: str) -> Grant:
        grant = self.grant_of(token)
        if grant is None or grant.client.id != client.id:
            raise OAuthError("invalid_grant", "Provided refresh token is unknown")
        if not self.is_live(token):
            if self._options.detect_reuse:
                self.end_reused(token)
            raise OAuthError("invalid_grant", "Provided refresh token is unknown")
        return grant

    def _authenticate(self, form: Mapping[str, str]) -> tuple[Client, bool]:
        """And whether the secret was given; a wrong one never passes."""
        client = self._options.client(_required(form, "client_id"))
        secret = form.get("client_secret")
        if client is None or secret not in (None, client.secret):
            raise OAuthError(self._options.client_error, "Provided client credentials are wrong")
        return client, secret is not None

    def _access_body(self, grant: Grant) -> Body:
        lifetime = self._options.access_token_lifetime
        expires_at = self._clock() + lifetime
        token = access_token(grant.client.app_id, grant.person, grant.scope, expires_at)
        self.add_access(token, grant, expires_at)
        return {
            "token_type": "Bearer",
            "access_token": token,
            "expires_in": lifetime,
            "scope": grant.scope,
        }

    def _refresh_body(self, grant: Grant) -> Body:
        lifetime = self._options.refresh_token_lifetime
        if lifetime is None:
            return {"refresh_token": self.rotate(grant, None)}
        token = self.rotate(grant, self._clock() + lifetime)
        return {"refresh_token": token, "refresh_token_expires_in": lifetime}


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
