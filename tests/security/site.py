"""A site whose own views break once they have used a flow."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.session import IlertSession
from tests import urls


class SiteError(Exception):
    pass


def start(request: HttpRequest) -> HttpResponse:
    url = flows.start_connect(request)
    raise SiteError(len(url))


def finish(request: HttpRequest) -> HttpResponse:
    account = flows.finish_connect(request)
    raise SiteError(account)


def token(request: HttpRequest) -> HttpResponse:
    access_token = flows.get_access_token(_account(request))
    raise SiteError(len(access_token))


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


VIEWS: dict[str, Any] = {
    view.__name__: view for view in (start, finish, token, refresh, check, disconnect, session)
}

urlpatterns = [
    *urls.urlpatterns,
    *(path(f"broken/{name}/", view, name=name) for name, view in VIEWS.items()),
]


def _account(request: HttpRequest) -> ConnectedAccount:
    return ConnectedAccount.objects.for_user(request.user).get()
