"""What a site writes against the public names: mypy reads it beside the sources, and the wheel."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

import requests
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.views.generic import View

from django_ilert_oauth import flows, signals, tasks
from django_ilert_oauth.decorators import (
    IlertAccountRequiredMixin,
    IlertHttpRequest,
    connect_url,
    ilert_account_required,
)
from django_ilert_oauth.exceptions import (
    IlertHTTPError,
    IlertOAuthError,
    IlertPlanError,
    IlertRejectedError,
    IlertScopeError,
    IlertUnavailableError,
    ReconnectRequiredError,
)
from django_ilert_oauth.flows import BulkResult, CheckResult, RevocationResult, RotationResult
from django_ilert_oauth.models import ConnectedAccount, ConnectedAccountQuerySet, Reason, Status
from django_ilert_oauth.session import IlertSession
from django_ilert_oauth.testing import FakeIlert, SentRequest, connected_account, fake_ilert


def connect(request: HttpRequest) -> None:
    assert_type(flows.start_connect(request, scopes=["source:w"], next_url="/", tenant="acme"), str)
    account = flows.finish_connect(request)
    assert_type(account, ConnectedAccount)
    assert_type(flows.start_connect(request, account=account), str)
    assert_type(account.has_scopes("source:r", ["alert"]), bool)
    assert_type(account.needs_reconnect, bool)


@ilert_account_required(scopes="source:w")
def guarded(request: IlertHttpRequest, pk: int) -> HttpResponse:
    assert_type(request.ilert_account, ConnectedAccount)
    return HttpResponse(connect_url(request, scopes=["alert"], next_url="/"))


@ilert_account_required("source:w")
def guarded_by_name(request: IlertHttpRequest) -> HttpResponse:
    return guarded(request, pk=1)


@ilert_account_required
async def guarded_async(request: IlertHttpRequest) -> HttpResponse:
    return HttpResponse(str(request.ilert_account))


class Guarded(IlertAccountRequiredMixin, View):
    ilert_scopes = ["source"]

    def get(self, request: IlertHttpRequest) -> HttpResponse:
        return guarded(request, pk=1)


def hear(account: ConnectedAccount, reason: Reason, **facts: Any) -> None:
    signals.account_revoked.connect(hear)


def schedule(pk: int) -> None:
    tasks.refresh_account.delay(pk)
    tasks.refresh_expiring_tokens.delay()


def keep(account: ConnectedAccount) -> None:
    assert_type(flows.get_access_token(account, margin=timedelta(minutes=5)), str)
    assert_type(flows.refresh(account, force=True), ConnectedAccount)
    flows.disconnect(account, reason=Reason.ADMIN)
    accounts = ConnectedAccount.objects.connected().expiring(timedelta(hours=1)).with_scopes("team")
    assert_type(accounts, ConnectedAccountQuerySet)
    assert_type(flows.refresh_many(accounts, concurrency=4, per_minute=600), BulkResult)
    assert_type(flows.check(account), ConnectedAccount)
    assert_type(flows.check_many(accounts), CheckResult)
    assert_type(flows.revoke_pending(), RevocationResult)
    assert_type(flows.rotate_keys(dry_run=True), RotationResult)


async def keep_async(account: ConnectedAccount) -> None:
    assert_type(await flows.aget_access_token(account, margin=timedelta(0)), str)
    assert_type(await flows.arefresh(account, force=True), ConnectedAccount)


def call(account: ConnectedAccount) -> None:
    with IlertSession(account, max_wait=5, team_context=7) as ilert:
        assert_type(ilert, IlertSession)
        assert_type(ilert.get("/api/alerts", params={"states": ["PENDING"]}), requests.Response)
        assert_type(ilert.post("/api/alert-sources", json={"name": "Shop"}), requests.Response)
        assert_type(ilert.list("/api/alerts", states="PENDING"), Iterator[Any])


def recover(error: Exception) -> str | float | int | None:
    match error:
        case IlertPlanError():
            return assert_type(error.correlation_id, str)
        case IlertScopeError():
            return assert_type(error.missing_scopes, list[str])[0]
        case IlertHTTPError():
            return assert_type(error.code, str) + assert_type(error.message, str)
        case ReconnectRequiredError() | IlertRejectedError():
            return assert_type(error.status, int)
        case IlertUnavailableError():
            return assert_type(error.retry_after, float | None)
        case IlertOAuthError():
            return assert_type(error.code, str)
    return None


def test(user: User, client: Any) -> None:
    with fake_ilert() as ilert:
        assert_type(ilert, FakeIlert)
        account = connected_account(user, scopes=["alert"], expires_in=-1, status=Status.CONNECTED)
        assert_type(account, ConnectedAccount)
        ilert.answer("GET", "/api/alerts", status=429, headers={"Retry-After": "1"}, times=2)
        ilert.answer("GET", "/api/alerts", raises=requests.Timeout)
        ilert.authorize(client, allow=False, next="/")
        ilert.authorize(client, link="/ilert/connect/?next=/")
        ilert.refuse_scope("source:w")
        assert_type(ilert.callback_url("https://app.ilert.com/"), str)
        assert_type(ilert.requests, list[SentRequest])
        assert_type(ilert.waits, list[float])
