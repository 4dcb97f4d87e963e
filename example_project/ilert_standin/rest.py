import secrets
from itertools import count

from werkzeug.wrappers import Request, Response

from .errors import RestError
from .oauth import Grant, Grants
from .people import TENANTS
from .responses import json_response
from .scopes import allows

MAX_RESULTS = 50
REQUIRED = ("name", "integrationType", "escalationPolicy")
AlertSource = dict[str, object]


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
        start = _whole_number(request, "start-index", 0)
        size = min(_whole_number(request, "max-results", MAX_RESULTS), MAX_RESULTS)
        return json_response(list(self._of(tenant).values())[start : start + size])

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
