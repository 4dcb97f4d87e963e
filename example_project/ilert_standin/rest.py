import secrets
from dataclasses import dataclass
from itertools import count

from werkzeug.wrappers import Request, Response

from .errors import RestError
from .oauth import Grant, Grants
from .people import TENANTS, people_of
from .responses import json_response
from .scopes import allows

REQUIRED = ("name", "integrationType", "escalationPolicy")
Item = dict[str, object]
AlertSource = Item


@dataclass(frozen=True)
class Collection:
    """What can only be read; page sizes as ilert's Go client states them."""

    scope: str
    page: int
    largest_page: int


COLLECTIONS = {
    "alerts": Collection("alert", 50, 100),
    "schedules": Collection("schedule", 20, 20),
    "users": Collection("user", 100, 100),
}


class Rest:
    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._ids = count(1001)
        self._sources: dict[str, dict[int, AlertSource]] = {}
        for tenant in TENANTS:
            for name in ("Website checks", "Server room"):
                self._create(tenant, _described(name))

    def current_user(self, request: Request) -> Response:
        return json_response(self._authorize(request, "profile", "r").person.profile())

    def alert_sources(self, request: Request) -> Response:
        if request.method == "POST":
            tenant = self._authorize(request, "source", "w").person.tenant
            return json_response(self._create(tenant, _alert_source_in(request)), 201)
        tenant = self._authorize(request, "source", "r").person.tenant
        return json_response(_page(request, list(self._of(tenant).values()), 50, 50))

    def alert_source(self, request: Request, id: int) -> Response:
        level = {"PUT": "w", "DELETE": "d"}.get(request.method, "r")
        sources = self._of(self._authorize(request, "source", level).person.tenant)
        if id not in sources:
            raise RestError(404, "Alert source not found")
        if request.method == "DELETE":
            del sources[id]
            return Response(status=204)
        if request.method == "PUT":
            sources[id] = sources[id] | _alert_source_in(request) | {"id": id}
        return json_response(sources[id])

    def collection(self, request: Request, name: str) -> Response:
        kind = COLLECTIONS[name]
        tenant = self._authorize(request, kind.scope, "r").person.tenant
        return json_response(_page(request, _items(tenant)[name], kind.page, kind.largest_page))

    def member(self, request: Request, name: str, id: int) -> Response:
        tenant = self._authorize(request, COLLECTIONS[name].scope, "r").person.tenant
        for item in _items(tenant)[name]:
            if item["id"] == id:
                return json_response(item)
        raise RestError(404, f"{name.capitalize()[:-1]} not found")

    def on_calls(self, request: Request) -> Response:
        """In one piece."""
        tenant = self._authorize(request, "schedule", "r").person.tenant
        return json_response([shift | {"schedule": _short(of)} for of, shift in _shifts(tenant)])

    def _authorize(self, request: Request, resource: str, level: str) -> Grant:
        credentials = request.authorization
        if credentials is None or credentials.type != "bearer" or not credentials.token:
            raise RestError(401, "A bearer token is needed")
        grant = self._grants.find(credentials.token)
        if grant is None:
            raise RestError(401, "The access token is unknown or expired")
        if not allows(grant.scope, resource, level):
            raise RestError(403, f"The scope does not include {resource}:{level}")
        return grant

    def _of(self, tenant: str) -> dict[int, AlertSource]:
        return self._sources.setdefault(tenant, {})

    def _create(self, tenant: str, described: AlertSource) -> AlertSource:
        id = next(self._ids)
        made = {"id": id, "integrationKey": f"il1api{secrets.token_hex(16)}"}
        source = {"status": "ALL_RESOLVED", "active": True} | described | made
        self._of(tenant)[id] = source
        return source


def _items(tenant: str) -> dict[str, list[Item]]:
    source = {"id": 1001, "name": "Website checks"}
    alerts: list[Item] = [
        {"id": id, "summary": f"Check {id} fails", "status": status, "alertSource": source}
        for id, status in ((4001, "PENDING"), (4002, "ACCEPTED"), (4003, "RESOLVED"))
    ]
    users = [person.profile() for person in people_of(tenant)]
    schedules = [schedule | {"currentShift": shift} for schedule, shift in _shifts(tenant)]
    return {"alerts": alerts, "schedules": schedules, "users": users}


def _shifts(tenant: str) -> list[tuple[Item, Item]]:
    """Each schedule, more than one page of them, and who is on call by it."""
    people = [person.profile() for person in people_of(tenant)] or [{}]
    times = {"start": "2026-01-01T00:00:00Z", "end": "2026-12-31T00:00:00Z"}
    return [
        (
            {"id": 3000 + number, "name": f"Rotation {number}", "timezone": "Europe/Berlin"},
            {"user": _short(people[number % len(people)]), **times},
        )
        for number in range(1, 24)
    ]


def _short(item: Item) -> Item:
    return {key: item[key] for key in ("id", "name", "username") if key in item}


def _page(request: Request, items: list[Item], size: int, largest: int) -> list[Item]:
    start = _whole_number(request, "start-index", 0)
    return items[start:][: min(_whole_number(request, "max-results", size), largest)]


def _described(name: str) -> AlertSource:
    policy = {"id": 1, "name": "Default"}
    return {"name": name, "integrationType": "API", "escalationPolicy": policy}


def _alert_source_in(request: Request) -> AlertSource:
    described = request.get_json(silent=True)
    if not isinstance(described, dict):
        raise RestError(400, "The body must be a JSON object")
    missing = [name for name in REQUIRED if not described.get(name)]
    if missing:
        raise RestError(400, f"Missing: {', '.join(missing)}")
    return described


def _whole_number(request: Request, name: str, default: int) -> int:
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise RestError(400, f"{name} must be a whole number")
    return int(text)
