"""Whom a run believes about ``invalid_grant``, which a wrong secret may look like."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertRejectedError
from django_ilert_oauth.flows import _refresh_request, _storing
from django_ilert_oauth.flows._bulk import credential_guard
from django_ilert_oauth.flows._lease import reload, take_lease
from django_ilert_oauth.flows._steps import run_now
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.other_callers import held, held_leases
from tests.support.refresh_runs import refresh_all
from tests.support.request_monitor import RequestMonitor
from tests.support.statements import failing_statements

pytestmark = pytest.mark.django_db(transaction=True)


def ended() -> list[ConnectedAccount]:
    rows = ConnectedAccount.objects.exclude(status=Status.CONNECTED)
    assert not rows.exclude(reason=Reason.REVOKED_AT_ILERT).exclude(reason=Reason.EXPIRED).exists()
    return list(rows.order_by("pk"))


def revoked(sent: list[Any]) -> list[ConnectedAccount]:
    told = [facts["account"] for name, facts in sent if name == "account_revoked"]
    return sorted(told, key=lambda account: account.pk)


@pytest.fixture
def wrong_secret(settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"


@pytest.mark.usefixtures("wrong_secret")
@pytest.mark.parametrize(("count", "concurrency"), [(1, 1), (12, 4)])
def test_a_run_with_only_invalid_grants_marks_nobody(
    people: People, sent: list[Any], count: int, concurrency: int
) -> None:
    accounts = people(count)
    assert refresh_all(concurrency=concurrency) == flows.BulkResult(
        failures=dict.fromkeys([account.pk for account in accounts], "invalid_grant"),
        stopped="credentials",
    )
    assert ended() == revoked(sent) == []
    assert [name for name, _ in sent] == ["account_refresh_failed"] * count
    assert set(ConnectedAccount.objects.values_list("last_error", flat=True)) == {"invalid_grant"}
    assert held_leases() == 0


@pytest.mark.parametrize(("position", "concurrency"), [(0, 1), (13, 1), (1, 4)])
def test_one_success_shows_that_the_credentials_are_right_for_those_before_it_too(
    people: People, ilert: StandIn, sent: list[Any], position: int, concurrency: int
) -> None:
    accounts = people(14)
    accounts.pop(position)
    for account in accounts:
        ilert.revoke_app("acme", account.username)
    result = refresh_all(concurrency=concurrency)
    assert (result.stopped, result.refreshed) == ("", 1)
    assert list(result.failures.values()) == ["invalid_grant"] * 13
    assert ended() == revoked(sent) == accounts
    assert held_leases() == 0


@pytest.mark.usefixtures("wrong_secret")
def test_another_error_of_ilert_is_no_proof_of_the_credentials(
    people: People, ilert: StandIn
) -> None:
    people(4)
    ilert.add_fault("token", Fault(status=400, body='{"code": "invalid_request"}'))
    ilert.add_fault("token", Fault(status=500))
    assert refresh_all().stopped == "credentials"
    assert ended() == []


@pytest.mark.usefixtures("wrong_secret")
def test_whoever_runs_it_may_settle_that_the_credentials_are_right(
    people: People, sent: list[Any]
) -> None:
    accounts = people(3)
    result = refresh_all(mark_ended=True)
    assert (result.stopped, result.failed) == ("", 3)
    assert ended() == revoked(sent) == accounts


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
def test_a_client_that_ilert_does_not_know_ends_the_run_at_once(
    people: People, ilert: StandIn, code: str
) -> None:
    people(6)
    ilert.add_fault("token", Fault(status=401, body=f'{{"code": "{code}"}}'), times=None)
    result = refresh_all()
    assert (result.stopped, list(result.failures.values())) == ("invalid_client", [code])
    assert len(ilert.token_requests) == 1


def test_a_grant_whose_token_is_missing_has_ended_whatever_the_credentials(
    make_account: AccountFactory, sent: list[Any]
) -> None:
    account = make_account(
        refresh_token="", access_token_expires_at=timezone.now() - timedelta(seconds=1)
    )
    assert refresh_all() == flows.BulkResult(failures={account.pk: "invalid_grant"})
    assert ended() == revoked(sent) == [account]


def test_the_next_run_asks_first_for_those_that_were_not_refused(
    people: People, ilert: StandIn
) -> None:
    accounts = people(20)
    for account in accounts[:12]:
        ilert.revoke_app("acme", account.username)
    assert refresh_all(limit=12).stopped == "credentials"
    assert refresh_all(limit=12).refreshed == 8
    assert ended() == accounts[:4]


def reconnected(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).update(last_error="", last_error_at=None)


def deleted(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk)._raw_delete("default")


@pytest.mark.parametrize("change", [reconnected, held, deleted])
def test_a_deferred_invalid_grant_is_forgotten_where_the_account_has_changed_meanwhile(
    people: People, ilert: StandIn, sent: list[Any], change: Callable[[ConnectedAccount], object]
) -> None:
    refused, other, _good = people(3)
    for account in (refused, other):
        ilert.revoke_app("acme", account.username)

    def on_progress(result: flows.BulkResult) -> None:
        if (result.failed, result.refreshed) == (2, 0):
            change(ConnectedAccount.objects.get(pk=refused.pk))

    refresh_all(on_progress=on_progress)
    assert ended() == revoked(sent) == [other]


def test_more_invalid_grants_than_a_page_are_believed(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_guard, "PAGE", 2)
    accounts = people(6)
    for account in accounts[:5]:
        ilert.revoke_app("acme", account.username)
    refresh_all()
    assert ended() == accounts[:5]


def test_a_database_that_fails_when_invalid_grants_are_believed_ends_the_run(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_storing, "DATABASE_PATIENCE", 0.1)
    refused, _good, _never_asked = people(3)
    ilert.revoke_app("acme", refused.username)
    with failing_statements("UPDATE", "REVOKED_AT_ILERT", error=OperationalError):
        result = refresh_all()
    assert (result.stopped, result.refreshed) == ("database", 1)
    assert ended() == []


def test_a_stopped_run_spares_the_grants_that_were_refused(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    monitor.on_arrival = lambda count: stop.set() if count == 3 else None
    people(8)
    refused = Fault(status=401, body='{"code": "invalid_grant"}')
    monitor.standin.add_fault("token", refused, times=3)
    result = refresh_all(stop=stop)
    assert (result.stopped, result.failed) == ("interrupted", 3)
    assert ended() == []
    assert held_leases() == 0


def test_what_single_requests_marked_comes_back_when_the_secret_is_right(
    people: People, settings: Any, sent: list[Any]
) -> None:
    accounts = people(2)
    right = settings.ILERT_OAUTH_CLIENT_SECRET
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    for account in accounts:
        with pytest.raises(IlertRejectedError):
            flows.refresh(account)
    retry = partial(refresh_all, retry_reconnect_required=True)
    assert refresh_all().failed == 2
    assert retry().stopped == "credentials"
    assert retry(mark_ended=True).failed == 2
    settings.ILERT_OAUTH_CLIENT_SECRET = right
    assert retry() == flows.BulkResult(refreshed=2)
    assert ended() == []
    assert revoked(sent) == accounts
    assert [name for name, _ in sent[-4:]] == ["account_refreshed", "account_recovered"] * 2


def test_an_invalid_grant_that_is_noted_while_another_account_succeeds_ends_its_grant(
    account: ConnectedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = credential_guard.CredentialGuard(mark_ended=False)
    lease = take_lease(reload(account))
    assert lease is not None
    note = _refresh_request.note_failure

    def note_and_succeed(*args: Any) -> Any:
        outcome = yield from note(*args)
        guard.succeeded()
        return outcome

    monkeypatch.setattr(credential_guard, "note_failure", note_and_succeed)
    run_now(guard.on_invalid_grant(lease, 401))
    account.refresh_from_db()
    assert account.status == Status.RECONNECT_REQUIRED
