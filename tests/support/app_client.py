from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from ilert_standin import browser
from ilert_standin.oauth import challenge_of

CLIENT_ID = "client-under-test"
CLIENT_SECRET = "secret-under-test"
REDIRECT_URI = "http://127.0.0.1:8000/callback/"
VERIFIER = "a-verifier-of-at-least-forty-three-characters"
OAUTH = "/api/developers/oauth2"


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class AppClient:
    """Does over HTTP what a site's back end does, and no more."""

    def __init__(self, base_url: str, http: requests.Session) -> None:
        self.base_url = base_url
        self.http = http

    def authorize_url(self, prefix: str = "", /, **changes: str | None) -> str:
        query = {
            "client_id": CLIENT_ID,
            "response_type": "code",
            "redirect_uri": REDIRECT_URI,
            "scope": "profile source:w",
            "state": "a state & more",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            **changes,
        }
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self.base_url}{prefix}{OAUTH}/authorize?{urlencode(given)}"

    def open_authorize(self, prefix: str = "", /, **changes: str | None) -> requests.Response:
        return self.http.get(self.authorize_url(prefix, **changes), allow_redirects=False)

    def code(self, tenant: str = "acme", username: str = "grace", /, **changes: str | None) -> str:
        url = self.authorize_url(**changes)
        return query_of(browser.authorize(url, tenant=tenant, username=username))["code"]

    def post(self, endpoint: str, form: Mapping[str, str | None]) -> requests.Response:
        return self.http.post(f"{self.base_url}{OAUTH}/{endpoint}", data=form, timeout=5)

    def exchange(self, code: str, /, **changes: str | None) -> requests.Response:
        form = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": VERIFIER,
        }
        return self.post("token", form | changes)

    def refresh(self, token: str, /, **changes: str | None) -> requests.Response:
        form = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "grant_type": "refresh_token",
            "refresh_token": token,
        }
        return self.post("token", form | changes)

    def connect(
        self, tenant: str = "acme", username: str = "grace", scope: str = "profile source:w"
    ) -> dict[str, Any]:
        response = self.exchange(self.code(tenant, username, scope=scope))
        assert response.status_code == 200, response.text
        tokens: dict[str, Any] = response.json()
        return tokens

    def token_info(self, token: str) -> object:
        return self.post("token_info", {"token": token}).json()

    def api(
        self, method: str, path: str, token: str | None = None, json: Any = None
    ) -> requests.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = f"{self.base_url}/api/{path}"
        return self.http.request(method, url, headers=headers, json=json, timeout=5)


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def oauth_error(response: requests.Response) -> tuple[int, str]:
    """Status and code of an error that must have ilert's body."""
    body = response.json()
    assert set(body) == {"code", "error"}
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, body["code"]


def rest_error(response: requests.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) - {"scope"} == {"status", "message", "code"}
    assert body["status"] == response.status_code
    return response.status_code, body["code"]


def missing_scope(response: requests.Response) -> str:
    """Of a response that must be a 403 for want of a scope."""
    assert rest_error(response) == (403, "OAUTH2_SCOPE_ERROR")
    scope: str = response.json()["scope"]
    return scope
