import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

from werkzeug.wrappers import Response

from .errors import STATUSES, OAuthError, RestError
from .lists import LISTS

OAUTH_ENDPOINTS = ("token", "token_info", "revoke")
ENDPOINTS = (
    "authorize",
    *OAUTH_ENDPOINTS,
    "users/current",
    *(name.replace("/{id}", "") for name in LISTS),
)
PLAN_CODES = ("FEATURE_REQUIRED", "QUOTA_EXCEEDED")
HTML = {"Content-Type": "text/html"}


@dataclass(frozen=True)
class Fault:
    """A status or a body comes instead of the real response; all else happens to the real one.

    `delay` and `drop` come before a request is carried out, `late` and `lost` after. `drip` is the
    pause between two bytes of the body, and `drip_headers` that of the headers. In seconds.
    """

    status: int | None = None
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    delay: float = 0.0
    drop: bool = False
    late: float = 0.0
    lost: bool = False
    drip: float = 0.0
    drip_headers: float = 0.0

    def response(self) -> Response | None:
        if self.status is None and not self.body:
            return None
        headers = {"Content-Type": "application/json", **self.headers}
        return Response(self.body, self.status or 200, headers)


SIMPLE = {
    "html": Fault(200, "<!doctype html><p>Down for maintenance", HTML),
    "gateway": Fault(502, "<!doctype html><h1>502 Bad Gateway</h1>", HTML),
    "empty": Fault(200),
    "truncated": Fault(200, '{"token_type": "Bearer", "access_tok'),
    "drop": Fault(drop=True),
    "lost": Fault(lost=True),
}
SLOW: dict[str, Callable[[float], Fault]] = {
    "hang": lambda seconds: Fault(delay=seconds),
    "late": lambda seconds: Fault(late=seconds),
    "drip": lambda seconds: Fault(drip=seconds),
    "drip-headers": lambda seconds: Fault(drip_headers=seconds),
}
NAMED_FAULTS = (*SIMPLE, *(f"{name}=SECONDS" for name in SLOW), *STATUSES, *PLAN_CODES)


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
    return "/".join(part for part in name.split("/") if not part.isdecimal())


def parse_fault(text: str) -> tuple[str, Fault, int | None]:
    """PATH:WHAT[:COUNT], where COUNT 0 is for ever and none is once."""
    endpoint, _, rest = text.partition(":")
    what, _, count = rest.partition(":")
    if endpoint not in ENDPOINTS:
        raise ValueError(f"PATH is one of {', '.join(ENDPOINTS)}")
    if count and not count.isdecimal():
        raise ValueError("COUNT must be an integer")
    return endpoint, _named_fault(endpoint, what), int(count or 1) or None


def _named_fault(endpoint: str, what: str) -> Fault:
    if what in SIMPLE:
        return SIMPLE[what]
    if what in STATUSES:
        return _error_fault(OAuthError(what, "Injected by a fault"))
    if what in PLAN_CODES:
        return _error_fault(RestError(402, "Injected by a fault", what))
    name, _, seconds = what.partition("=")
    if name in SLOW and seconds:
        return SLOW[name](_seconds(seconds))
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
