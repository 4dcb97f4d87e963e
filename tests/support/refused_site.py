"""A site whose views learn from ilert only that a scope is missing."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from django_ilert_oauth.decorators import (
    IlertAccountRequiredMixin,
    IlertHttpRequest,
    ilert_account_required,
)
from django_ilert_oauth.exceptions import IlertScopeError, ReconnectRequiredError
from django_ilert_oauth.session import IlertSession
from tests import urls


def schedules(request: Any) -> HttpResponse:
    with IlertSession(request.ilert_account) as ilert:
        found = len(list(ilert.list("/api/schedules")))
    return HttpResponse(f"{found} schedules of {request.ilert_account}")


@ilert_account_required
def function(request: IlertHttpRequest) -> HttpResponse:
    return schedules(request)


@ilert_account_required("profile")
async def async_function(request: IlertHttpRequest) -> HttpResponse:
    return await sync_to_async(schedules)(request)


class Mixed(IlertAccountRequiredMixin, View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return schedules(request)


class AsyncMixed(IlertAccountRequiredMixin, View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return await sync_to_async(schedules)(request)


@method_decorator(ilert_account_required(["profile"]), name="dispatch")
class Decorated(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return schedules(request)


@ilert_account_required("profile")
def refused(request: IlertHttpRequest, scopes: str) -> HttpResponse:
    """ilert refuses, whatever it has granted."""
    Group.objects.get_or_create(name="half of the work")
    raise IlertScopeError("refused", missing_scopes=scopes.split("+"))


@ilert_account_required
def refused_without_a_scope(request: IlertHttpRequest) -> HttpResponse:
    raise IlertScopeError("refused")


@ilert_account_required
def ended_elsewhere(request: IlertHttpRequest) -> HttpResponse:
    """Of an account that is not the request's."""
    raise ReconnectRequiredError("The grant has ended.", code="invalid_grant")


KINDS: dict[str, Any] = {
    "function": function,
    "async-function": async_function,
    "mixin": Mixed.as_view(),
    "async-mixin": AsyncMixed.as_view(),
    "decorated-class": Decorated.as_view(),
}

urlpatterns = [
    *urls.urlpatterns,
    *(path(f"{kind}/", view) for kind, view in KINDS.items()),
    path("refused/<scopes>/", refused),
    path("refused-without-a-scope/", refused_without_a_scope),
    path("ended-elsewhere/", ended_elsewhere),
]
