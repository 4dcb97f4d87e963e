"""A site whose views, one of each kind, need an account."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from django_ilert_oauth.decorators import (
    IlertAccountRequiredMixin,
    IlertHttpRequest,
    ilert_account_required,
)
from tests import urls


def show(request: Any, view: str) -> HttpResponse:
    return HttpResponse(f"{view} works with {request.ilert_account}")


@ilert_account_required(scopes="source:w")
def function(request: IlertHttpRequest, view: str) -> HttpResponse:
    return show(request, view)


@ilert_account_required("source:w")
async def async_function(request: IlertHttpRequest, view: str) -> HttpResponse:
    return show(request, view)


class Mixed(IlertAccountRequiredMixin, View):
    ilert_scopes = "source:w"

    def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


class AsyncMixed(IlertAccountRequiredMixin, View):
    ilert_scopes = ("source:w",)

    async def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


@method_decorator(ilert_account_required(scopes="source:w"), name="dispatch")
class Decorated(View):
    def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


@method_decorator([ilert_account_required(scopes="source:w"), csrf_exempt], name="dispatch")
class AsyncDecorated(View):
    async def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


class DecoratedMethod(View):
    @method_decorator(ilert_account_required(scopes="source:w"))
    def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


class AsyncDecoratedMethod(View):
    @method_decorator(ilert_account_required(["source:w"]))
    async def get(self, request: HttpRequest, view: str) -> HttpResponse:
        return show(request, view)


@ilert_account_required
def without_parentheses(request: IlertHttpRequest) -> HttpResponse:
    return show(request, "without parentheses")


@ilert_account_required()
async def called(request: IlertHttpRequest) -> HttpResponse:
    return show(request, "called")


@require_POST
@ilert_account_required(scopes="source:w")
def posted(request: IlertHttpRequest) -> HttpResponse:
    return show(request, "posted")


@ilert_account_required(scopes=["source:w", "alert:w"])
def greedy(request: IlertHttpRequest) -> HttpResponse:
    return show(request, "greedy")


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse("for everybody")


GUARDED: dict[str, Any] = {
    "function": function,
    "async-function": async_function,
    "mixin": Mixed.as_view(),
    "async-mixin": AsyncMixed.as_view(),
    "decorated-class": Decorated.as_view(),
    "async-decorated-class": AsyncDecorated.as_view(),
    "decorated-method": DecoratedMethod.as_view(),
    "async-decorated-method": AsyncDecoratedMethod.as_view(),
}

urlpatterns = [
    *urls.urlpatterns,
    *(path(f"{kind}/<view>/", view) for kind, view in GUARDED.items()),
    path("plain/", plain),
    path("without-parentheses/", without_parentheses),
    path("called/", called),
    path("posted/", posted),
    path("greedy/", greedy),
]
