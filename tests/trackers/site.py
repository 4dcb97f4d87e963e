"""A site with views as the guides have them."""

from __future__ import annotations

import httpx
from django.http import HttpResponse
from django.urls import path

from django_ilert_oauth.decorators import IlertHttpRequest, ilert_account_required
from django_ilert_oauth.httpx import IlertAuth
from django_ilert_oauth.session import IlertSession
from tests import urls


@ilert_account_required(scopes="source:w")
def alert_sources(request: IlertHttpRequest) -> HttpResponse:
    with IlertSession(request.ilert_account) as ilert:
        return HttpResponse([source["name"] for source in ilert.list("/api/alert-sources")])


@ilert_account_required(scopes="source:w")
def alert_sources_by_httpx(request: IlertHttpRequest) -> HttpResponse:
    account = request.ilert_account
    with httpx.Client(base_url=account.api_url, auth=IlertAuth(account)) as ilert:
        return HttpResponse(ilert.get("/api/alert-sources").raise_for_status())


urlpatterns = [
    *urls.urlpatterns,
    path("sources/", alert_sources),
    path("sources-by-httpx/", alert_sources_by_httpx),
]
