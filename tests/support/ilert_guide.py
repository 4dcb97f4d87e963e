"""Requests and responses, exactly as in ilert's guide "Developing ilert apps: backend apps"."""

from __future__ import annotations

import json
from pathlib import Path

CLIENT_ID = "0501439fd7dee9af0c25"
CLIENT_SECRET = "3908acda0291d0c4c1e77171aac3b4e501cbbbfc6797f13be1c7a607241498ad"
CODE = "a74e0a0bfbfefbe62ab94a60942e"
REDIRECT_URI = "http://localhost:4597/authorize-result"
SCOPE = "profile source:w"
STATE = "optional-state"

AUTHORIZE_URL = (
    "https://app.ilert.com/api/developers/oauth2/authorize?client_id=0501439fd7dee9af0c25"
    "&response_type=code&redirect_uri=http%3A%2F%2Flocalhost%3A4597%2Fauthorize-result"
    "&scope=profile%20source%3Aw&state=optional-state"
)

TOKEN_RESPONSE = json.loads((Path(__file__).parents[1] / "standin/seed_response.json").read_text())
REFRESH_TOKEN: str = TOKEN_RESPONSE["refresh_token"]

#: The guide uses another access token than the one that it was given.
ACCESS_TOKEN = (
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9."
    "eyJpbF9uIjoiNWNmIiwiaWxfYSI6MiwiaWxfcyI6InByb2ZpbGUgc291cmNlOnciLCJpc3MiOiJpbGVydCIsImls"
    "X3UiOiJrcnlzdGlhbml0eSIsImlsX3QiOiJBQ0NFU1MiLCJpbF92IjoxLCJleHAiOjE2NDM3MjczNTR9."
    "ZSxXJiR7yPF9BMfsfa9dYVpdv5E2o88iBTG1VFp7-vdF3wciNte7_fKQU2z2aMVudGIZ6dhpBuA8FnSJa3sjaXgs"
    "Hy2r8Fjvj2XCTuPigaZgURTjAM0zqTC6bxHVkn-G9bKUoJ8mx40U8hFZFPsnD5b9qiZZ6CjqU0CCuiWjoEC8hapH"
    "e1TOYnNvqeFPRUYfOhJTXAuOoW0wmcKdrAyk6YbVN74nDVlEbG1TEGIXk893jVyLaoiShqHxkcnyliTWLYg9P_DG"
    "0JXFflxugyGttP3GaxAq28KAxI-5VAa_QptXlwybEVN9Q8072a7Xk4R0_jCKbp9uMKE3E4qH72f3PA"
)

TOKEN_INFO = {
    "active": True,
    "tenant_id": "someTenant",
    "username": "someUser",
    "scope": "profile source:w",
    "app_id": 250,
}

UNKNOWN_CODE = {"code": "invalid_grant", "error": "Provided code is unknown"}
