"""The grants of an ilert in memory.

A token says itself whom it belongs to, so accounts need not be known here. One that was made
elsewhere is taken as well.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import requests

from django_ilert_oauth.internal import scopes
from django_ilert_oauth.oauth import client

from ._rest_rules import error_body, needed_scope

#: Tenant, username and, unless the token was made elsewhere, scope.
Owner = dict[str, str]
#: Of a token that was made elsewhere.
ANY = "wildcard:d"
#: Method and path.
Key = tuple[str, str]
#: Status and body.
Response = tuple[int, Any]

OPEN = {("POST", client.TOKEN_PATH), ("POST", client.TOKEN_INFO_PATH), ("POST", client.REVOKE_PATH)}
#: The fake responds to these itself.
OWN = OPEN | {("GET", client.CURRENT_USER_PATH)}

PREFIX = "ilert-in-memory."
_numbers = itertools.count(1)


class Grants:
    """The codes and tokens that were given, and which of them have ended."""

    def __init__(self) -> None:
        self.tenant_id, self.username = "acme", "grace"
        self.expires_in = 3600
        self.rotates = False
        self._codes: dict[str, tuple[str, Owner]] = {}
        self._ended: set[str] = set()
        self._refused_scopes: set[str] = set()
        self._ids: defaultdict[tuple[str, str], int] = defaultdict(itertools.count(1).__next__)
        #: By kind; tokens with a smaller number have ended.
        self._first_live = {"access": 0, "refresh": 0}

    def _give_code(self, challenge: str, scope: str) -> str:
        code = f"code-{next(_numbers)}"
        owner = {"tenant_id": self.tenant_id, "username": self.username, "scope": scope}
        self._codes[code] = (challenge, owner)
        return code

    def _end(self, kind: str) -> None:
        """Every token of the kind, ``access`` or ``refresh``, that was made so far."""
        self._first_live[kind] = next(_numbers)

    def _denied(self, request: requests.PreparedRequest, key: Key) -> Response | None:
        """401 or 403 for a token that is not good for the path; the OAuth endpoints take none."""
        if key in OPEN:
            return None
        owner = self._owner("access", _bearer(request))
        if not owner:
            return 401, error_body(401, "The access token is not valid")
        needed = needed_scope(*key)
        if self._is_refused(needed) or not scopes.covers(owner.get("scope", ANY), needed):
            message = f"The token lacks the scope {needed}"
            return 403, error_body(403, message, "OAUTH2_SCOPE_ERROR", scope=needed)
        return None

    def _is_refused(self, needed: str) -> bool:
        return any(scopes.covers(needed, refused) for refused in self._refused_scopes)

    def _own_response(self, request: requests.PreparedRequest, key: Key) -> Response:
        if key not in OPEN:
            owner = self._owner("access", _bearer(request))
            number = self._ids[owner["tenant_id"], owner["username"]]
            return 200, {"id": number, "username": owner["username"]}
        endpoints: dict[str, Callable[[Mapping[str, str]], Response]] = {
            client.TOKEN_PATH: self._give_tokens,
            client.TOKEN_INFO_PATH: self._describe,
            client.REVOKE_PATH: self._revoke,
        }
        return endpoints[key[1]](dict(parse_qsl(str(request.body))))

    def _give_tokens(self, form: Mapping[str, str]) -> Response:
        owner = self._owner_of_grant(form)
        if not owner:
            return 401, {"code": "invalid_grant", "error": "Provided grant is unknown"}
        body = {
            "token_type": "Bearer",
            "access_token": make_token("access", owner),
            "expires_in": self.expires_in,
        }
        if "scope" in owner:
            body["scope"] = owner["scope"]
        used = form.get("refresh_token", "")
        if not used or self.rotates:
            self._ended.add(used)
            body["refresh_token"] = make_token("refresh", owner)
        return 200, body

    def _owner_of_grant(self, form: Mapping[str, str]) -> Owner:
        if form["grant_type"] == "refresh_token":
            return self._owner("refresh", form["refresh_token"])
        challenge, owner = self._codes.pop(form["code"], ("", {}))
        if challenge != _challenge(form["code_verifier"]):
            return {}
        given = owner["scope"]
        self._refused_scopes = {s for s in self._refused_scopes if not scopes.covers(given, s)}
        return owner

    def _describe(self, form: Mapping[str, str]) -> Response:
        owner = self._owner("access", form["token"])
        return 200, {"active": bool(owner), **owner}

    def _revoke(self, form: Mapping[str, str]) -> Response:
        self._ended.add(form["token"])
        return 200, {}

    def _owner(self, kind: str, token: str) -> Owner:
        """Empty for none and for a token that has ended."""
        made_as, number, owner = _read_token(token)
        has_ended = number < self._first_live[kind] or token in self._ended
        if not token or has_ended or made_as not in (kind, ""):
            return {}
        return owner or {"tenant_id": self.tenant_id, "username": self.username}


def _bearer(request: requests.PreparedRequest) -> str:
    return str(request.headers.get("Authorization", "")).removeprefix("Bearer ")


def make_token(kind: str, owner: Owner) -> str:
    text = json.dumps([kind, next(_numbers), owner])
    return f"{PREFIX}{base64.urlsafe_b64encode(text.encode()).decode()}"


def _read_token(token: str) -> tuple[str, int, Owner]:
    """Kind, number and owner; none of them for a token that was made elsewhere."""
    if not token.startswith(PREFIX):
        return "", 0, {}
    kind, number, owner = json.loads(base64.urlsafe_b64decode(token.removeprefix(PREFIX)))
    return kind, number, owner


def _challenge(verifier: str) -> str:
    """RFC 7636, section 4.2."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
