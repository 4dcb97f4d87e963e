"""How the lists of ilert's REST API page, from its OpenAPI description v2.2026.3-r.4."""

from dataclasses import dataclass

from werkzeug.wrappers import Request, Response

from .errors import RestError
from .responses import json_response

Item = dict[str, object]


@dataclass(frozen=True)
class Listing:
    """`scope` is empty where ilert documents none."""

    page: int
    largest_page: int
    scope: str = ""
    largest_with_include: int | None = None
    by_cursor: bool = False


LISTS = {
    "integrations": Listing(50, 100),
    "users": Listing(50, 100, "user"),
    "alerts": Listing(50, 100, "alert"),
    "alerts/{id}/log-entries": Listing(50, 100, "alert"),
    "schedules": Listing(20, 20, "schedule"),
    "on-calls": Listing(50, 250, "schedule"),
    "alert-sources": Listing(50, 50, "source"),
    "heartbeat-monitors": Listing(100, 200, by_cursor=True),
    "support-hours": Listing(50, 50, "support_hour"),
    "maintenance-windows": Listing(50, 100, "maintenance"),
    "escalation-policies": Listing(50, 50, "policy"),
    "alert-actions": Listing(100, 100, "action"),
    "connectors": Listing(50, 100, "connector"),
    "teams": Listing(50, 100, "team"),
    "incident-templates": Listing(50, 100, "template"),
    "services": Listing(10, 100, "service", 25),
    "incidents": Listing(10, 100, "incident", 25),
    "status-pages": Listing(25, 50, "status_page"),
    "status-pages/{id}/groups": Listing(50, 100, "status_page"),
    "metric-data-sources": Listing(10, 100, "metric_source"),
    "metrics": Listing(10, 100, "metric", 25),
    "deployment-pipelines": Listing(50, 100),
    "event-flows": Listing(50, 100),
    "call-flows": Listing(50, 100),
    "call-flow-numbers": Listing(50, 100),
}


def page_of(request: Request, listing: Listing, items: list[Item]) -> Response:
    size = _page_size(request, listing)
    start = _after_cursor(request, items) if listing.by_cursor else _start_index(request)
    page = items[start:][:size]
    response = json_response(page)
    if listing.by_cursor and page and page[-1] is not items[-1]:
        response.headers["next-cursor"] = f"after-{page[-1]['id']}"
    return response


def _page_size(request: Request, listing: Listing) -> int:
    """A page that is too large is refused, never clamped."""
    size = _integer(request, "max-results", listing.page)
    if "include" in request.args and listing.largest_with_include:
        largest, when = listing.largest_with_include, ", when using 'include'"
    else:
        largest, when = listing.largest_page, ""
    if size > largest:
        raise RestError(400, f"'max-results' must not be above {largest}{when}")
    return size


def _start_index(request: Request) -> int:
    return _integer(request, "start-index", 0)


def _after_cursor(request: Request, items: list[Item]) -> int:
    cursor = request.args.get("cursor")
    if cursor is None:
        return 0
    for index, item in enumerate(items, start=1):
        if cursor == f"after-{item['id']}":
            return index
    raise RestError(400, "The cursor is unknown")


def _integer(request: Request, name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise RestError(400, f"'{name}' must be an integer")
    return int(text)
