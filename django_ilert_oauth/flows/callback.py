"""What ilert sends back by the user's browser: an address that holds the code and the state."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from django.http import HttpRequest, QueryDict

from django_ilert_oauth.secret import Secret

#: Servers and proxies keep the address under names of their own, too.
_QUERY = re.compile("(code|state)=")
MOST_ENCODINGS = 3
#: A shorter text may be a part of anything.
SHORTEST_SECRET = 8
#: What Django asks for the host and the session: a made-up code must not take it away.
_KEPT = {"HTTP_COOKIE", "HTTP_HOST", "HTTP_X_FORWARDED_HOST", "SERVER_NAME"}


def take_answer(request: HttpRequest) -> dict[str, Secret]:
    """Out of the request, whose ``repr`` and error pages would show the code and the state."""
    taken: dict[str, Secret] = vars(request).setdefault("ilert_oauth_answer", {})
    secrets = [Secret(text) for name in ("code", "state") for text in request.GET.getlist(name)]
    taken.update((name, Secret(value)) for name, value in request.GET.items())
    request.GET = QueryDict()
    request.META["QUERY_STRING"] = ""
    for name, value in request.META.items():
        if name not in _KEPT and isinstance(value, str) and _shows(value, secrets):
            request.META[name] = ""
    # Made of the above when it is asked for next.
    vars(request).pop("headers", None)
    if scope := getattr(request, "scope", None):
        _take_out_of_scope(scope, secrets)
    return taken


def _take_out_of_scope(scope: dict[str, Any], secrets: list[Secret]) -> None:
    """Under ASGI, where error trackers read it."""
    scope["query_string"] = b""
    scope["headers"] = [
        (name, b"" if name != b"cookie" and _shows(value.decode("latin-1"), secrets) else value)
        for name, value in scope.get("headers", ())
    ]


def _shows(text: str, secrets: list[Secret]) -> bool:
    """Servers and proxies may have encoded the address once more."""
    for _ in range(MOST_ENCODINGS + 1):
        if _QUERY.search(text) or any(s in text for s in secrets if len(s) >= SHORTEST_SECRET):
            return True
        text = unquote(text)
    return False
