"""The parameters that ilert sends back by the user's browser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, QueryDict

from django_ilert_oauth.exceptions import AuthorizationDeniedError
from django_ilert_oauth.oauth.secret import Secret

_PARAMETERS = frozenset({"code", "error", "state"})
_HEADERS = frozenset(
    {
        "referer",
        "x-envoy-original-path",
        "x-forwarded-uri",
        "x-ms-original-url",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
    }
)
#: Where servers and proxies keep the address, whose query holds the code and the state.
_NAMES = (
    "QUERY_STRING",
    "RAW_URI",
    "REDIRECT_QUERY_STRING",
    "REQUEST_URI",
    "UNENCODED_URL",
    *(f"HTTP_{name.replace('-', '_').upper()}" for name in _HEADERS),
)


def take_parameters(request: HttpRequest) -> dict[str, list[Secret]]:
    """Takes them out of the request, whose ``repr`` and error pages would show the secrets."""
    taken: dict[str, list[Secret]] = vars(request).setdefault("ilert_oauth_parameters", {})
    for number, (name, values) in enumerate(_lists(request)):
        # A query that was encoded twice is one name, with the code in it.
        key = name if name in _PARAMETERS else f"other {number}"
        taken[key] = [Secret(str(value)) for value in values]
    request.GET = QueryDict()
    request.META.update(dict.fromkeys(request.META.keys() & set(_NAMES), ""))
    _take_out_of_events(request.META)
    if "headers" in vars(request):  # made of META when it was asked for
        del request.headers
    if scope := getattr(request, "scope", None):
        _take_out_of_scope(scope)
    return taken


def single_parameters(request: HttpRequest) -> dict[str, Secret]:
    """Raises ``AuthorizationDeniedError`` for a repeated one (RFC 6749, section 3.1)."""
    taken = take_parameters(request)
    if any(len(values) > 1 for values in taken.values()):
        raise AuthorizationDeniedError(
            "ilert's response repeats a parameter.", code="repeated_parameter"
        )
    return {name: value for name, [value] in taken.items()}


def _lists(request: HttpRequest) -> Iterable[tuple[str, list[Any]]]:
    """None where they are more than Django reads: such a query goes as well."""
    try:
        return request.GET.lists()
    except SuspiciousOperation:
        return ()


def _take_out_of_scope(scope: dict[str, Any]) -> None:
    """Under ASGI, where error trackers read it."""
    scope["query_string"] = b""
    scope["headers"] = [
        (name, b"" if name.decode("latin-1").lower() in _HEADERS else value)
        for name, value in scope.get("headers", ())
    ]
    _take_out_of_events(scope)


def _take_out_of_events(environ: dict[str, Any]) -> None:
    """What runs functions, as AWS Lambda does, keeps what it was called with."""
    for name, value in environ.items():
        if name.endswith("event") and isinstance(value, dict):
            environ[name] = {key: value[key] for key in value if "query" not in key.lower()}
