import re
from collections.abc import Mapping
from dataclasses import dataclass

from werkzeug.wrappers import Request, Response

from . import pages
from .errors import OAuthError, PageError
from .login import Logins
from .oauth import Grants
from .options import Options
from .people import Person
from .responses import page_response, send_back
from .scopes import is_well_formed


@dataclass(frozen=True)
class Asked:
    client_id: str
    redirect_uri: str
    scope: str
    challenge: str
    state: str | None


class Consent:
    """The pages on which a user lets the app in."""

    def __init__(self, options: Options, grants: Grants, logins: Logins) -> None:
        self._options = options
        self._grants = grants
        self._logins = logins

    def authorize(self, request: Request, tenant: str | None = None) -> Response:
        redirect_uri = self._registered_uri(request.args)
        state = request.args.get("state")
        try:
            asked = Asked(
                request.args["client_id"], redirect_uri, *_scope_and_challenge(request.args), state
            )
            return self._ask(request, tenant, asked)
        except OAuthError as error:
            return send_back(
                redirect_uri, error=error.code, error_description=error.text, state=state
            )

    def _registered_uri(self, query: Mapping[str, str]) -> str:
        client = self._options.client(query.get("client_id", ""))
        if client is None:
            raise PageError(400, "The client_id is unknown.")
        redirect_uri = query.get("redirect_uri", "")
        if redirect_uri not in client.redirect_uris:
            raise PageError(400, "The redirect_uri is not the registered one.")
        return redirect_uri

    def _ask(self, request: Request, tenant: str | None, asked: Asked) -> Response:
        person = self._logins.step(request, tenant)
        if isinstance(person, Response):
            return person
        decision = request.form.get("decision")
        if decision is None or request.form.get("shown_to") != person.account:
            return page_response(pages.consent(person, asked.scope, asked.redirect_uri))
        return self._decide(person, asked, decision)

    def _decide(self, person: Person, asked: Asked, decision: str) -> Response:
        if decision != "allow":
            raise OAuthError("access_denied", "The user denied access")
        code = self._grants.issue_code(person, asked.scope, asked.challenge)
        self._grants.bind_code(code, asked.client_id)
        return send_back(asked.redirect_uri, code=code, state=asked.state)


def _scope_and_challenge(query: Mapping[str, str]) -> tuple[str, str]:
    if query.get("response_type") != "code":
        raise OAuthError("invalid_request", "response_type must be code")
    scope = query.get("scope", "")
    if not is_well_formed(scope):
        raise OAuthError("invalid_scope", "Provided scope is malformed")
    challenge = query.get("code_challenge", "")
    method = query.get("code_challenge_method", "")
    if (challenge or method) and not _is_s256(challenge, method):
        raise OAuthError("invalid_request", "code_challenge must be made by S256")
    return scope, challenge


def _is_s256(challenge: str, method: str) -> bool:
    return method == "S256" and bool(re.fullmatch(r"[A-Za-z0-9_-]{43}", challenge))
