import secrets

from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from . import pages
from .errors import PageError
from .people import Person, find_person, people_of
from .responses import page_response

# Cookies ignore ports, so this one must not be called what the site's is.
COOKIE = "ilert_standin"


class Logins:
    def __init__(self) -> None:
        self._people: dict[str, Person] = {}

    def step(self, request: Request, tenant: str | None) -> Person | Response:
        """Who is logged in, or the response that lets somebody log in."""
        people = people_of(tenant)
        if not people:
            raise PageError(404, "There is no such tenant.")
        if "account" in request.form:
            return self._log_in(request, people)
        if "log_out" in request.form:
            return self._log_out(request)
        person = self._people.get(request.cookies.get(COOKIE, ""))
        return person if person in people else page_response(pages.log_in(people))

    def _log_in(self, request: Request, people: list[Person]) -> Response:
        person = find_person(request.form["account"])
        if person not in people or person is None:
            raise PageError(400, "There is no such user here.")
        key = secrets.token_urlsafe(32)
        self._people[key] = person
        response = same_page(request)
        response.set_cookie(COOKIE, key, httponly=True, samesite="Lax")
        return response

    def _log_out(self, request: Request) -> Response:
        self._people.pop(request.cookies.get(COOKIE, ""), None)
        response = same_page(request)
        response.delete_cookie(COOKIE, httponly=True, samesite="Lax")
        return response


def same_page(request: Request) -> Response:
    return redirect((request.root_path + request.full_path).rstrip("?"), 303)
