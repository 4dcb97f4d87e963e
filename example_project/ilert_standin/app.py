import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING
from uuid import uuid4

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from . import pages
from .authorize import Consent
from .errors import OAuthError, PageError, RestError
from .faults import Fault, Faults, endpoint_of
from .journal import Journal, RecordedRequest
from .ledger import Grant
from .limits import RateLimit
from .lists import LISTS
from .login import Logins, same_page
from .oauth import Body, Grants
from .options import Options
from .people import Person, person_of
from .responses import json_response, page_response
from .rest import Rest
from .server import drip, drop_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OAUTH = "/api/developers/oauth2"
ROUTES = Map(
    [
        Rule("/", methods=["GET"], endpoint="home"),
        Rule(f"{OAUTH}/authorize", methods=["GET", "POST"], endpoint="authorize"),
        Rule(f"/t/<tenant>{OAUTH}/authorize", methods=["GET", "POST"], endpoint="authorize"),
        Rule("/manage-applications", methods=["GET", "POST"], endpoint="manage"),
        Rule("/t/<tenant>/manage-applications", methods=["GET", "POST"], endpoint="manage"),
        Rule(f"{OAUTH}/token", methods=["POST"], endpoint="token"),
        Rule(f"{OAUTH}/token_info", methods=["POST"], endpoint="token_info"),
        Rule(f"{OAUTH}/revoke", methods=["POST"], endpoint="revoke"),
        Rule("/api/users/current", methods=["GET"], endpoint="current_user"),
        Rule("/api/alert-sources", methods=["POST"], endpoint="create_alert_source"),
        Rule(
            "/api/alert-sources/<int:id>", methods=["PUT", "DELETE"], endpoint="change_alert_source"
        ),
        *(
            Rule("/api/" + name.replace("{id}", "<int:parent_id>"), methods=["GET"], endpoint=name)
            for name in LISTS
        ),
        Rule("/api/<name>/<int:id>", methods=["GET"], endpoint="member"),
    ],
    merge_slashes=False,
)


class StandIn:
    """A WSGI application. `clock` gives seconds since the epoch."""

    def __init__(
        self, options: Options | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.options = replace(options or Options())
        self._options_given = replace(self.options)
        self._clock = clock
        self._lock = Lock()
        self._start_afresh()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        prefix, path = self.options.url_prefix, environ["PATH_INFO"]
        if not path.startswith(f"{prefix}/"):
            return self._outside(Request(environ))(environ, start_response)
        below = {"SCRIPT_NAME": prefix, "PATH_INFO": path.removeprefix(prefix)}
        return self._respond(Request(environ | below))(environ, start_response)

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._lock:
            return self._journal.records()

    @property
    def token_requests(self) -> list[RecordedRequest]:
        """Those POSTed to the token endpoint, whatever the responses."""
        path = f"{self.options.url_prefix}{OAUTH}/token"
        return [made for made in self.requests if (made.method, made.path) == ("POST", path)]

    def add_fault(self, endpoint: str, fault: Fault, times: int | None = 1) -> None:
        """For the next so many requests to "token" or another endpoint; None is for ever."""
        with self._lock:
            self._faults.add(endpoint, fault, times)

    def issue_tokens(
        self, tenant: str, username: str, scope: str = "profile", *, client_id: str | None = None
    ) -> Body:
        """The token response of a finished connect, without a browser. Makes up unknown users."""
        client = self.options.client(client_id or self.options.client_id)
        if client is None:
            raise ValueError(f"no client {client_id!r}")
        with self._lock:
            person = person_of(tenant, username)
            return self._grants.issue_tokens(Grant(person, scope, client, secret_needed=True))

    def ledger(self) -> dict[str, str]:
        """The id of each grant, which its tokens share, leads to its live refresh token."""
        with self._lock:
            return self._grants.live()

    def grant_of(self, refresh_token: str) -> str | None:
        """A refresh token leads to the id of its grant, whether it lives or not."""
        with self._lock:
            grant = self._grants.grant_of(refresh_token)
            return grant.id if grant else None

    @property
    def lost_grants(self) -> list[str]:
        """These ended because a rotated refresh token came again."""
        with self._lock:
            return list(self._grants.lost)

    def revoke_app(self, tenant: str, username: str) -> None:
        with self._lock:
            self._revoke_all(person_of(tenant, username))

    def expire_access_tokens(self) -> None:
        with self._lock:
            self._grants.expire_access_tokens()

    def live_refresh_tokens(self, tenant: str, username: str) -> int:
        with self._lock:
            return len(self._grants.of(person_of(tenant, username)))

    def reset(self) -> None:
        """Back to how it started, options included."""
        with self._lock:
            vars(self.options).update(vars(self._options_given))
            self._start_afresh()

    def _start_afresh(self) -> None:
        self._faults = Faults()
        self._journal = Journal()
        self._by_address, self._by_token = RateLimit(), RateLimit()
        self._logins = Logins()
        self._grants = Grants(self.options, self._clock)
        self._consent = Consent(self.options, self._grants, self._logins)
        self._rest = Rest(self.options, self._grants)

    def _outside(self, request: Request) -> Response:
        """A request to another prefix is recorded, and nothing is found there."""
        request.get_data()
        with self._lock:
            self._journal.responded(self._journal.arrived(request), 404)
        return page_response(pages.error("There is nothing at this address."), 404)

    def _respond(self, request: Request) -> "WSGIApplication":
        request.get_data()
        with self._lock:
            journal, limited = self._journal, self._is_limited(request)
            arrival = journal.arrived(request)
            fault = (None if limited else self._faults.take(request.path)) or Fault()
        response = self._limited() if limited else self._endpoint_response(request, fault)
        if _is_api(request.path) and response.mimetype != "text/html":
            response.headers.setdefault("correlation-id", str(uuid4()))
        with self._lock:
            journal.responded(arrival, response.status_code)
        if fault.drip or fault.drip_headers:
            return drip(response, fault.drip_headers, fault.drip)
        return response

    def _is_limited(self, request: Request) -> bool:
        if not _is_api(request.path):
            return False
        now, options = self._clock(), self.options
        address, given = request.remote_addr or "", request.authorization
        return self._by_address.is_exceeded(address, now, options.requests_per_minute) or (
            given is not None
            and self._by_token.is_exceeded(given.token or "", now, options.requests_per_token)
        )

    def _limited(self) -> Response:
        response = json_response(RestError(429, "Too many requests").body(), 429)
        if self.options.retry_after is not None:
            response.headers["Retry-After"] = str(self.options.retry_after)
        return response

    def _endpoint_response(self, request: Request, fault: Fault) -> Response:
        latency = self.options.latency if _is_api(request.path) else 0
        time.sleep(latency + fault.delay)
        if fault.drop:
            drop_connection(request.environ)
        response = fault.response() or self._carry_out(request)
        time.sleep(fault.late)
        if fault.lost:
            drop_connection(request.environ)
        return response

    def _carry_out(self, request: Request) -> Response:
        try:
            with self._lock:
                return self._route(request)
        except (OAuthError, RestError) as error:
            return json_response(error.body(), error.status)
        except PageError as error:
            return page_response(pages.error(error.message), error.status)
        except HTTPException as error:
            return _http_error(request, error)

    def _route(self, request: Request) -> Response:
        name, values = ROUTES.bind_to_environ(request.environ).match()
        if name in LISTS:
            return self._rest.listing(request, name, **values)
        views: dict[str, Callable[..., Response]] = {
            "home": lambda request: page_response(pages.home()),
            "authorize": self._consent.authorize,
            "manage": self._manage,
            "token": lambda request: json_response(self._grants.token(_form(request))),
            "token_info": lambda request: json_response(self._grants.token_info(_form(request))),
            "revoke": self._revoke,
            "current_user": self._rest.current_user,
            "create_alert_source": self._rest.create_alert_source,
            "change_alert_source": self._rest.change_alert_source,
            "member": self._rest.member,
        }
        return views[name](request, **values)

    def _revoke(self, request: Request) -> Response:
        self._grants.revoke(_form(request))
        return Response()

    def _revoke_all(self, person: Person) -> None:
        for grant in self._grants.of(person):
            self._grants.end(grant)

    def _manage(self, request: Request, tenant: str | None = None) -> Response:
        person = self._logins.step(request, tenant)
        if isinstance(person, Response):
            return person
        if "revoke" in request.form:
            self._revoke_all(person)
            return same_page(request)
        scopes = [grant.scope for grant in self._grants.of(person)]
        return page_response(pages.manage_applications(person, scopes))


def _is_api(path: str) -> bool:
    return path.startswith("/api/") and endpoint_of(path) != "authorize"


def _form(request: Request) -> dict[str, str]:
    if request.mimetype != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "The body must be a form")
    return request.form.to_dict()


def _http_error(request: Request, error: HTTPException) -> Response:
    status, message = error.code or 500, error.name
    if request.path.startswith("/api/"):
        return json_response(RestError(status, message).body(), status)
    return page_response(pages.error(message), status)
