import secrets
from itertools import count

from werkzeug.wrappers import Request, Response

from .errors import RestError, ScopeError
from .items import items_of
from .ledger import Grant, Ledger
from .lists import LISTS, Item, page_of
from .options import Options
from .people import TENANTS
from .responses import json_response
from .scopes import allows

REQUIRED = ("name", "integrationType", "escalationPolicy")
NAMES = ("Website checks", "Server room")


class Rest:
    def __init__(self, options: Options, ledger: Ledger) -> None:
        self._options = options
        self._ledger = ledger
        self._ids = count(1001)
        self._sources: dict[str, dict[int, Item]] = {}

    def current_user(self, request: Request) -> Response:
        return json_response(self._authorize(request, "profile").person.profile())

    def listing(self, request: Request, name: str, parent_id: int | None = None) -> Response:
        tenant = self._authorize(request, LISTS[name].scope).person.tenant
        if parent_id is not None:
            self._find(tenant, name.partition("/")[0], parent_id)
        return page_of(request, LISTS[name], self._items(tenant, name))

    def member(self, request: Request, name: str, id: int) -> Response:
        if name not in LISTS:
            raise RestError(404, "Not Found")
        tenant = self._authorize(request, LISTS[name].scope).person.tenant
        return json_response(self._find(tenant, name, id))

    def create_alert_source(self, request: Request) -> Response:
        tenant = self._authorize(request, "source:w").person.tenant
        return json_response(self._create(self._of(tenant), _alert_source_in(request)), 201)

    def change_alert_source(self, request: Request, id: int) -> Response:
        scope = "source:w" if request.method == "PUT" else "source:d"
        tenant = self._authorize(request, scope).person.tenant
        source = self._find(tenant, "alert-sources", id)
        if request.method == "DELETE":
            del self._of(tenant)[id]
            return Response(status=204)
        source |= _alert_source_in(request) | {"id": id}
        return json_response(source)

    def _authorize(self, request: Request, scope: str) -> Grant:
        """Any live token will do where there is no scope."""
        credentials = request.authorization
        if credentials is None or credentials.type != "bearer" or not credentials.token:
            raise RestError(401, "A bearer token is needed")
        grant = self._ledger.find_access(credentials.token)
        if grant is None:
            raise RestError(401, "The access token is unknown or expired")
        if scope and not allows(grant.scope, scope):
            raise ScopeError(scope)
        return grant

    def _items(self, tenant: str, name: str) -> list[Item]:
        if name == "alert-sources":
            return list(self._of(tenant).values())
        return items_of(tenant, name)

    def _find(self, tenant: str, name: str, id: int) -> Item:
        for item in self._items(tenant, name):
            if item.get("id") == id:
                return item
        raise RestError(404, f"No {id} in {name}")

    def _of(self, tenant: str) -> dict[int, Item]:
        """A tenant's alert sources are made when they are first asked for."""
        if tenant not in self._sources:
            sources = self._sources[tenant] = {}
            known = range(self._options.alert_sources if tenant in TENANTS else 0)
            for number in known:
                self._create(sources, _described(number))
        return self._sources[tenant]

    def _create(self, sources: dict[int, Item], described: Item) -> Item:
        id = next(self._ids)
        made = {"id": id, "integrationKey": f"il1api{secrets.token_hex(16)}"}
        sources[id] = {"status": "ALL_RESOLVED", "active": True} | described | made
        return sources[id]


def _described(number: int) -> Item:
    name = NAMES[number] if number < len(NAMES) else f"Alert source {number + 1}"
    policy = {"id": 1, "name": "Default"}
    return {"name": name, "integrationType": "API", "escalationPolicy": policy}


def _alert_source_in(request: Request) -> Item:
    described = request.get_json(silent=True)
    if not isinstance(described, dict):
        raise RestError(400, "The body must be a JSON object")
    missing = [name for name in REQUIRED if not described.get(name)]
    if missing:
        raise RestError(400, f"Missing: {', '.join(missing)}")
    return described
