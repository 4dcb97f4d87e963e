import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

from werkzeug.wrappers import Response

from .errors import STATUSES, OAuthError, RestError

ENDPOINTS = ("authorize", "token", "token_info", "revoke", "users/current", "alert-sources")
OAUTH_ENDPOINTS = ("token", "token_info", "revoke")
NAMED_FAULTS = ("html", "empty", "truncated", "drop", "hang=SECONDS", *STATUSES)


@dataclass(frozen=True)
class Fault:
    """Comes instead of the real answer. With a delay alone, the real answer comes late."""

    status: int | None = None
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    delay: float = 0.0
    drop: bool = False

    def response(self) -> Response | None:
        if self.status is None and not self.body:
            return None
        headers = {"Content-Type": "application/json", **self.headers}
        return Response(self.body, self.status or 200, headers)


class Faults:
    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[Fault, float]]] = defaultdict(list)

    def add(self, endpoint: str, fault: Fault, times: int | None) -> None:
        if endpoint not in ENDPOINTS:
            raise ValueError(f"no endpoint {endpoint!r}: choose from {', '.join(ENDPOINTS)}")
        self._waiting[endpoint].append((fault, math.inf if times is None else times))

    def take(self, path: str) -> Fault | None:
        waiting = self._waiting.get(endpoint_of(path))
        if not waiting:
            return None
        fault, times = waiting[0]
        waiting[:1] = [(fault, times - 1)] if times > 1 else []
        return fault


def endpoint_of(path: str) -> str:
    if path.startswith("/t/"):
        path = "/" + path.split("/", 3)[-1]
    name = path.removeprefix("/api/").removeprefix("developers/oauth2/")
    return "alert-sources" if name.startswith("alert-sources/") else name


def parse_fault(text: str) -> tuple[str, Fault, int | None]:
    """PATH:WHAT[:COUNT], where COUNT 0 is for ever and none is once."""
    endpoint, _, rest = text.partition(":")
    what, _, count = rest.partition(":")
    if endpoint not in ENDPOINTS:
        raise ValueError(f"PATH is one of {', '.join(ENDPOINTS)}")
    if count and not count.isdecimal():
        raise ValueError("COUNT is a whole number")
    return endpoint, _named_fault(endpoint, what), int(count or 1) or None


def _named_fault(endpoint: str, what: str) -> Fault:
    simple = {
        "html": Fault(200, "<!doctype html><p>Down for maintenance", {"Content-Type": "text/html"}),
        "empty": Fault(200),
        "truncated": Fault(200, '{"token_type": "Bearer", "access_tok'),
        "drop": Fault(drop=True),
    }
    if what in simple:
        return simple[what]
    if what in STATUSES:
        return _error_fault(OAuthError(what, "Injected by a fault"))
    if what.startswith("hang="):
        return Fault(delay=_seconds(what.removeprefix("hang=")))
    return _status_fault(endpoint, what)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise ValueError("SECONDS is a number")
    return seconds


def _status_fault(endpoint: str, what: str) -> Fault:
    if what not in {str(status.value) for status in HTTPStatus if status >= 400}:
        raise ValueError(f"WHAT is an HTTP error status or one of {', '.join(NAMED_FAULTS)}")
    status = int(what)
    if status >= 500 and endpoint in OAUTH_ENDPOINTS:
        body = OAuthError("server_error", "Injected by a fault").body()
        return Fault(status, json.dumps(body))
    return _error_fault(RestError(status, "Injected by a fault"))


def _error_fault(error: OAuthError | RestError) -> Fault:
    return Fault(error.status, json.dumps(error.body()))
