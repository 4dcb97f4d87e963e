import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from threading import Lock
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from . import pages
from .authorize import Consent
from .errors import OAuthError, PageError, RestError
from .faults import Fault, Faults, endpoint_of
from .journal import Journal, RecordedRequest
from .limits import RateLimit
from .login import Logins, same_page
from .oauth import Answer, Grants
from .options import Options
from .people import person_of
from .responses import json_response, page_response
from .rest import COLLECTIONS, Rest
from .server import drop_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

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
        Rule("/api/alert-sources", methods=["GET", "POST"], endpoint="alert_sources"),
        Rule(
            "/api/alert-sources/<int:id>", methods=["GET", "PUT", "DELETE"], endpoint="alert_source"
        ),
        Rule("/api/on-calls", methods=["GET"], endpoint="on_calls"),
        Rule(f"/api/<any({', '.join(COLLECTIONS)}):name>", methods=["GET"], endpoint="collection"),
        Rule(
            f"/api/<any({', '.join(COLLECTIONS)}):name>/<int:id>",
            methods=["GET"],
            endpoint="member",
        ),
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
        return self._respond(Request(environ))(environ, start_response)

    @property
    def requests(self) -> list[RecordedRequest]:
        with self._lock:
            return self._journal.records()

    @property
    def token_requests(self) -> list[RecordedRequest]:
        """Those POSTed to the token endpoint, whatever they were answered."""
        path = f"{OAUTH}/token"
        return [made for made in self.requests if (made.method, made.path) == ("POST", path)]

    def add_fault(self, endpoint: str, fault: Fault, times: int | None = 1) -> None:
        """For the next so many requests to "token" or another endpoint; None is for ever."""
        with self._lock:
            self._faults.add(endpoint, fault, times)

    def issue_tokens(self, tenant: str, username: str, scope: str = "profile") -> Answer:
        """What a finished connect is answered, without the walk. Makes up users it doesn't know."""
        with self._lock:
            return self._grants.issue_tokens(person_of(tenant, username), scope)

    def revoke_app(self, tenant: str, username: str) -> None:
        with self._lock:
            self._grants.revoke_all(person_of(tenant, username))

    def expire_access_tokens(self) -> None:
        with self._lock:
            self._grants.expire_access_tokens()

    def live_refresh_tokens(self, tenant: str, username: str) -> int:
        with self._lock:
            return len(self._grants.of(person_of(tenant, username)))

    def reset(self) -> None:
        """Back to how it started, options included."""
        with self._lock:
            vars(self.options).update(asdict(self._options_given))
            self._start_afresh()

    def _start_afresh(self) -> None:
        self._faults = Faults()
        self._journal = Journal()
        self._limit = RateLimit()
        self._logins = Logins()
        self._grants = Grants(self.options, self._clock)
        self._consent = Consent(self.options, self._grants, self._logins)
        self._rest = Rest(self._grants)

    def _respond(self, request: Request) -> Response:
        request.get_data()
        with self._lock:
            journal, limited = self._journal, self._is_limited(request)
            arrival = journal.arrived(request)
            fault = None if limited else self._faults.take(request.path)
        response = self._limited() if limited else self._answer(request, fault or Fault())
        with self._lock:
            journal.answered(arrival, response.status_code)
        return response

    def _is_limited(self, request: Request) -> bool:
        address = request.remote_addr or ""
        return _is_api(request.path) and self._limit.is_exceeded(
            address, self._clock(), self.options.requests_per_minute
        )

    def _limited(self) -> Response:
        response = json_response(RestError(429, "Too many requests").body(), 429)
        if self.options.retry_after is not None:
            response.headers["Retry-After"] = str(self.options.retry_after)
        return response

    def _answer(self, request: Request, fault: Fault) -> Response:
        latency = self.options.latency if _is_api(request.path) else 0
        time.sleep(latency + fault.delay)
        if fault.drop:
            drop_connection(request.environ)
        replacement = fault.response()
        if replacement is not None:
            return replacement
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
        views: dict[str, Callable[..., Response]] = {
            "home": lambda request: page_response(pages.home()),
            "authorize": self._consent.authorize,
            "manage": self._manage,
            "token": lambda request: json_response(self._grants.token(_form(request))),
            "token_info": lambda request: json_response(self._grants.token_info(_form(request))),
            "revoke": self._revoke,
            "current_user": self._rest.current_user,
            "alert_sources": self._rest.alert_sources,
            "alert_source": self._rest.alert_source,
            "collection": self._rest.collection,
            "member": self._rest.member,
            "on_calls": self._rest.on_calls,
        }
        return views[name](request, **values)

    def _revoke(self, request: Request) -> Response:
        self._grants.revoke(_form(request))
        return Response()

    def _manage(self, request: Request, tenant: str | None = None) -> Response:
        person = self._logins.step(request, tenant)
        if isinstance(person, Response):
            return person
        if "revoke" in request.form:
            self._grants.revoke_all(person)
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
