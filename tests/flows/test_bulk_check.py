from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import base
from django_ilert_oauth.flows.pace import Pace
from django_ilert_oauth.flows.run import OUTAGE, RATE_LIMIT_TRIES
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import People
from tests.door import Door

pytestmark = pytest.mark.django_db(transaction=True)

Accounts = list[ConnectedAccount]

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
    monkeypatch.setattr(base, "PAGE", 2)
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


def test_an_error_that_nobody_expected_is_one_row_s_and_says_no_more_than_its_type(
    people: People, caplog: pytest.LogCaptureFixture
) -> None:
    first, _second = people(2)
    ConnectedAccount.objects.update(granted_scope="out of date")

    def refuse_first(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "granted_scope" in sql and first.pk in params:
            raise DatabaseError(f"no room for {params}")
        return execute(sql, params, *args)

    with connection.execute_wrapper(refuse_first):
        result = run(concurrency=1)
    assert result == flows.CheckResult(checked=1, changed=1, failures={first.pk: "unexpected"})
    assert "DatabaseError" in caplog.text
    assert "no room" not in caplog.text


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_more_than_the_limit_is_checked(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(base, "PAGE", 2)
    people(4)
    assert run(limit=limit).checked == limit
    assert len(ilert.requests) == limit


def test_as_many_requests_are_under_way_as_there_are_threads(people: People, door: Door) -> None:
    together = threading.Barrier(3, timeout=20)
    door.on_arrival = lambda count: together.wait()
    people(6)
    assert run(concurrency=3).checked == 6
    assert door.most_inside == 3


def test_a_run_makes_no_request_inside_a_transaction(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    with transaction.atomic(), pytest.raises(TransactionManagementError, match="check_many"):
        run()
    assert ilert.requests == []


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"per_minute": -1}])
def test_options_that_make_no_sense_are_refused(db: None, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        run(**options)


# Pace


def test_each_request_waits_for_its_moment(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(Pace, "wait", lambda pace: waits.append(len(ilert.requests)))
    people(1, **expired())
    ilert.add_fault("token_info", Fault(200, '{"active": false}'))
    assert run(concurrency=1).checked == 1
    assert asked(ilert) == ["token", "token_info", "token_info"]
    assert waits == [0, 1, 2]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    asked_for: list[float] = []
    monkeypatch.setattr(Pace, "pause", lambda self, seconds: asked_for.append(seconds))
    return asked_for


def test_too_many_requests_pause_the_run_and_are_asked_again(
    people: People, ilert: StandIn, pauses: list[float]
) -> None:
    people(2)
    ilert.add_fault("token_info", LIMITED)
    assert run(concurrency=1) == flows.CheckResult(checked=2)
    assert pauses == [7]


def test_an_account_that_stays_rate_limited_fails(
    people: People, ilert: StandIn, pauses: list[float]
) -> None:
    first, _second = people(2)
    ilert.add_fault("token_info", LIMITED, times=RATE_LIMIT_TRIES)
    result = run(concurrency=1)
    assert result == flows.CheckResult(checked=1, failures={first.pk: "rate_limited"})


def test_a_run_that_is_stopped_makes_no_further_request(people: People, door: Door) -> None:
    stop = threading.Event()
    door.on_arrival = lambda count: stop.set()
    people(3, **expired())
    result = run(concurrency=1, stop=stop)
    assert (result.stopped, result.done) == ("interrupted", 0)
    assert asked(door.standin) == ["token"]


# What ends a run early


def test_an_outage_stops_the_run(people: People, ilert: StandIn) -> None:
    people(20)
    before = list(ConnectedAccount.objects.values())
    ilert.add_fault("token_info", DROPPED, times=None)
    result = run(concurrency=1)
    assert (result.stopped, result.checked) == ("outage", 0)
    assert list(result.failures.values()) == ["unreachable"] * OUTAGE
    assert len(ilert.requests) == OUTAGE
    assert list(ConnectedAccount.objects.values()) == before


@pytest.mark.parametrize("answer", [Fault(), renamed("user-0"), Fault(200, '{"active": false}')])
def test_an_answer_shows_that_ilert_is_there(people: People, ilert: StandIn, answer: Fault) -> None:
    people(19, refreshed_at=timezone.now())
    for fault, times in [(DROPPED, 9), (answer, 2), (DROPPED, 9)]:
        ilert.add_fault("token_info", fault, times=times)
    assert run(concurrency=1).stopped == ""


def test_wrong_credentials_stop_the_run_and_mark_nothing(
    people: People, ilert: StandIn, settings: Any, sent: list[Any]
) -> None:
    people(12, **expired())
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    result = run(concurrency=1)
    assert (result.stopped, result.failed) == ("credentials", 10)
    assert ConnectedAccount.objects.connected().count() == 12
    assert ConnectedAccount.objects.exclude(lease_id="").count() == 0
    assert sent == []


def test_a_grant_that_is_gone_is_marked_and_told(
    people: People, ilert: StandIn, sent: list[Any]
) -> None:
    gone, _other = people(2, **expired())
    ilert.revoke_app("acme", gone.username)
    assert run() == flows.CheckResult(checked=1, failures={gone.pk: "invalid_grant"})
    gone.refresh_from_db()
    assert gone.needs_reconnect
    assert sorted(name for name, _ in sent) == ["account_refreshed", "account_revoked"]


# Progress


def test_each_account_that_was_checked_is_told_by_its_key(people: People, ilert: StandIn) -> None:
    bad, *good = people(3)
    ConnectedAccount.objects.filter(pk=bad.pk).update(access_token_ciphertext="broken")
    done: list[int] = []
    run(on_done=done.append)
    assert sorted(done) == [account.pk for account in good]


def test_progress_counts_up_to_the_result(people: People, ilert: StandIn) -> None:
    ilert.revoke_app("acme", people(3, **expired())[0].username)
    seen: list[int] = []
    result = run(concurrency=1, on_progress=lambda result: seen.append(result.done))
    assert result.done == 3
    assert seen == sorted(seen)
    assert seen[-1] == 3
