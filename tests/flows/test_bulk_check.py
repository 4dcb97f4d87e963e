from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows._bulk import account_queue
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from django_ilert_oauth.flows._bulk.runner import MAX_ATTEMPTS
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import People
from tests.support.request_monitor import RequestMonitor

pytestmark = pytest.mark.django_db(transaction=True)


DROPPED = Fault(drop=True)
LIMITED = Fault(429, headers={"Retry-After": "7"})


def run(**options: Any) -> flows.CheckResult:
    """As fast as it goes, unless told otherwise."""
    return flows.check_many(ConnectedAccount.objects.all(), **{"per_minute": 0, **options})


def renamed(username: str) -> Fault:
    info = {"active": True, "tenant_id": "acme", "username": username, "scope": "profile source:w"}
    return Fault(200, json.dumps(info))


def expired() -> dict[str, Any]:
    return {"access_token_expires_at": timezone.now() - timedelta(minutes=1)}


def asked(ilert: StandIn) -> list[str]:
    return [made.path.rpartition("/")[2] for made in ilert.requests]


def test_every_account_is_checked_across_pages(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 2)
    people(5)
    ConnectedAccount.objects.filter(username="user-3").update(granted_scope="out of date")
    assert run() == flows.CheckResult(checked=5, changed=1)
    assert asked(ilert) == ["token_info"] * 5
    assert set(ConnectedAccount.objects.values_list("granted_scope", flat=True)) == {
        "profile source:w"
    }


def test_one_bad_row_never_stops_the_rest(people: People, ilert: StandIn) -> None:
    unreadable, ended, taken, foreign, good = people(5)
    rows = ConnectedAccount.objects
    rows.filter(pk=unreadable.pk).update(access_token_ciphertext="broken")
    rows.filter(pk=ended.pk).update(status=Status.DISCONNECTED)
    rows.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    ilert.add_fault("token_info", renamed("user-4"))
    ConnectedAccount.objects.filter(pk=good.pk).update(granted_scope="out of date")
    assert run(concurrency=1) == flows.CheckResult(
        checked=1,
        changed=1,
        failures={
            unreadable.pk: "token_unreadable",
            ended.pk: "invalid_grant",
            taken.pk: "identity_taken",
            foreign.pk: "endpoint_mismatch",
        },
    )
    assert asked(ilert) == ["token_info"] * 2


def test_a_database_that_fails_ends_the_run(
    people: People, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    first, _second = people(2)
    ConnectedAccount.objects.update(granted_scope="out of date")

    def refuse(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "granted_scope" in sql:
            raise OperationalError(f"no room for {params}")
        return execute(sql, params, *args)

    with connection.execute_wrapper(refuse):
        result = run(concurrency=1)
    assert result == flows.CheckResult(failures={first.pk: "database"}, stopped="database")
    assert len(ilert.requests) == 1
    assert "no room" not in caplog.text


# Rate limit


def test_each_request_waits_for_its_slot(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots: list[int] = []
    take = RateLimiter._take

    def note(limiter: RateLimiter) -> float:
        slots.append(len(ilert.requests))
        return take(limiter)

    monkeypatch.setattr(RateLimiter, "_take", note)
    people(1, **expired())
    ilert.add_fault("token_info", Fault(200, '{"active": false}'))
    assert run(concurrency=1).checked == 1
    assert asked(ilert) == ["token", "token_info", "token_info"]
    assert slots == [0, 1, 2]


def test_too_many_requests_pause_the_run_and_are_asked_again_so_often(
    people: People, ilert: StandIn, pauses: list[float]
) -> None:
    first, _second = people(2)
    ilert.add_fault("token_info", LIMITED, times=MAX_ATTEMPTS)
    result = run(concurrency=1)
    assert result == flows.CheckResult(checked=1, failures={first.pk: "rate_limited"})
    assert pauses == [7] * MAX_ATTEMPTS
    assert len(ilert.requests) == MAX_ATTEMPTS + 1


def test_a_run_that_is_stopped_makes_no_further_request(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    monitor.on_arrival = lambda count: stop.set()
    people(3, **expired())
    result = run(concurrency=1, stop=stop)
    assert (result.stopped, result.done) == ("interrupted", 0)
    assert asked(monitor.standin) == ["token"]


# What ends a run early


@pytest.mark.parametrize("response", [Fault(), renamed("user-0"), Fault(200, '{"active": false}')])
def test_a_response_shows_that_ilert_is_there(
    people: People, ilert: StandIn, response: Fault
) -> None:
    people(19, refreshed_at=timezone.now())
    for fault, times in [(DROPPED, 9), (response, 2), (DROPPED, 9)]:
        ilert.add_fault("token_info", fault, times=times)
    assert run(concurrency=1).stopped == ""


@pytest.mark.parametrize(("mark_ended", "stopped"), [(False, "credentials"), (True, "")])
def test_wrong_credentials_mark_nobody_unless_they_are_said_to_be_right(
    people: People, settings: Any, mark_ended: bool, stopped: str
) -> None:
    people(3, **expired())
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    result = run(mark_ended=mark_ended)
    assert (result.stopped, set(result.failures.values())) == (stopped, {"invalid_grant"})
    assert ConnectedAccount.objects.connected().count() == (0 if mark_ended else 3)
    assert not ConnectedAccount.objects.exclude(lease_id="").exists()


def test_a_grant_that_is_gone_is_marked_and_told(
    people: People, ilert: StandIn, sent: list[Any]
) -> None:
    _other, gone = people(2, **expired())
    ilert.revoke_app("acme", gone.username)
    assert run(concurrency=1) == flows.CheckResult(checked=1, failures={gone.pk: "invalid_grant"})
    gone.refresh_from_db()
    assert gone.needs_reconnect
    assert [name for name, _ in sent] == ["account_refreshed", "account_revoked"]


# Progress


def test_each_account_that_was_checked_is_told_by_its_key(people: People) -> None:
    bad, *good = people(3)
    ConnectedAccount.objects.filter(pk=bad.pk).update(access_token_ciphertext="broken")
    done: list[int] = []
    run(on_done=done.append)
    assert sorted(done) == [account.pk for account in good]
