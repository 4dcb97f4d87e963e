"""Async views that need a token."""

from __future__ import annotations

import asyncio

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount


@login_not_required
async def one(request: HttpRequest, pk: int) -> HttpResponse:
    account = await ConnectedAccount.objects.aget(pk=pk)
    return JsonResponse([await flows.aget_access_token(account)], safe=False)


@login_not_required
async def many(request: HttpRequest, pk: int) -> HttpResponse:
    account = await ConnectedAccount.objects.aget(pk=pk)
    calls = [flows.aget_access_token(account) for _ in range(20)]
    return JsonResponse(await asyncio.gather(*calls), safe=False)


@login_not_required
async def refreshed(request: HttpRequest, pk: int) -> HttpResponse:
    account = await flows.arefresh(await ConnectedAccount.objects.aget(pk=pk))
    return JsonResponse([account.access_token.reveal()], safe=False)


urlpatterns = [
    path("<int:pk>/one/", one),
    path("<int:pk>/many/", many),
    path("<int:pk>/refreshed/", refreshed),
]
