"""A site whose own views break once they have used a flow, and some that need an account.

What ``get_access_token`` and ``start_connect`` return is the caller's to look after: no variable of
these views holds it.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path

from django_ilert_oauth import flows
from django_ilert_oauth.decorators import IlertHttpRequest, ilert_account_required
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession
from tests import urls

#: Not as tokens name it: what is asked stands in addresses, in base64 as well.
READ = "source:r"
TAGS = """
{% load ilert_oauth %}{% ilert_account as account %}{{ account }}
{% ilert_connect_url %} {% ilert_connect_url scopes="alert:w" %}
{% ilert_connect_button %}{% ilert_connect_button scopes="alert:w" %}
"""


class SiteError(Exception):
    pass


def start(request: HttpRequest) -> HttpResponse:
    raise SiteError(len(flows.start_connect(request)))


def finish(request: HttpRequest) -> HttpResponse:
    account = flows.finish_connect(request)
    raise SiteError(account)


def token(request: HttpRequest) -> HttpResponse:
    raise SiteError(len(flows.get_access_token(_account(request))))


def refresh(request: HttpRequest) -> HttpResponse:
    account = flows.refresh(_account(request), force=True)
    raise SiteError(account)


def check(request: HttpRequest) -> HttpResponse:
    account = flows.check(_account(request))
    raise SiteError(account)


def disconnect(request: HttpRequest) -> HttpResponse:
    account = _account(request)
    flows.disconnect(account, request=request)
    raise SiteError(account)


def session(request: HttpRequest) -> HttpResponse:
    with IlertSession(_account(request)) as ilert:
        response = ilert.get("/api/users/current")
        raise SiteError(response.status_code)


def tags(request: HttpRequest) -> HttpResponse:
    return HttpResponse(Template(TAGS).render(RequestContext(request)))


@ilert_account_required(scopes=READ)
def guarded(request: IlertHttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.ilert_account} {request.ilert_account!r}")


@ilert_account_required(scopes=[READ, "alert:w"])
def guarded_more(request: IlertHttpRequest) -> HttpResponse:
    return guarded(request)


VIEWS: dict[str, Any] = {
    view.__name__: view for view in (start, finish, token, refresh, check, disconnect, session)
}

urlpatterns = [
    *urls.urlpatterns,
    *(path(f"broken/{name}/", view, name=name) for name, view in VIEWS.items()),
    path("tags/", tags),
    path("guarded/", guarded),
    path("guarded/more/", guarded_more),
]


def _account(request: HttpRequest) -> ConnectedAccount:
    return ConnectedAccount.objects.for_user(request.user).get()
