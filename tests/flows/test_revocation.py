"""What reaches ilert: right after a commit, and by ``revoke_pending``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _revocation
from django_ilert_oauth.flows._bulk import revocations
from django_ilert_oauth.flows._bulk.revocations import MAX_AGE, MIN_DELAY
from django_ilert_oauth.models import ConnectedAccount, PendingRevocation, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.other_callers import revocations_sent
from tests.support.request_monitor import RequestMonitor

pytestmark = pytest.mark.django_db(transaction=True)

#: Nothing listens there.
DEAD = "http://127.0.0.1:1"
TOO_LATE = 2
DOWN = Fault(status=500)
GONE = Fault(drop=True)


@pytest.fixture
def kept(people: People) -> list[PendingRevocation]:
    """Three that no one has tried to send yet, the oldest first."""
    return pending(*people(3))


def pending(*accounts: ConnectedAccount) -> list[PendingRevocation]:
    """As a process leaves it that ends right after the commit."""
    names = ("client_id", "api_url", "tenant_id", "username", "refresh_token_ciphertext")
    rows = []
    for account in accounts:
        columns = {name: getattr(account, name) for name in names}
        rows.append(PendingRevocation.objects.create(account_uuid=account.uuid, **columns))
    return rows


def pass_time(time: timedelta) -> None:
    for name in ("created_at", "last_error_at", "next_attempt_at", "grant_ends_at"):
        rows = PendingRevocation.objects.exclude(**{name: None})
        rows.update(**{name: F(name) - time})


def waits(row: PendingRevocation) -> timedelta:
    row.refresh_from_db()
    assert row.next_attempt_at is not None
    seconds = (row.next_attempt_at - timezone.now()).total_seconds()
    return timedelta(minutes=round(seconds / 60))


def tokens(*rows: PendingRevocation) -> list[str]:
    return [row.refresh_token.reveal() for row in rows]


def run(**options: Any) -> flows.RevocationResult:
    return flows.revoke_pending(per_minute=0, **options)


# Right after the commit


def test_a_revocation_goes_to_the_ilert_that_issued_the_token(
    account: ConnectedAccount, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_API_URL = DEAD
    settings.ILERT_OAUTH_CLIENT_ID = "another-client"
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_those_of_one_commit_are_sent_at_the_same_time(
    people: People, monitor: RequestMonitor
) -> None:
    together = threading.Barrier(_revocation.CONCURRENCY, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(2 * _revocation.CONCURRENCY)
    ConnectedAccount.objects.all().delete()
    assert monitor.max_concurrent == _revocation.CONCURRENCY
    assert not PendingRevocation.objects.exists()


def test_of_very_many_the_rest_is_left_to_the_next_run(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_revocation, "MAX_AFTER_COMMIT", 5)
    _revocation._kept.clear()
    people(8)
    ConnectedAccount.objects.all().delete()
    assert len(revocations_sent(ilert)) == 5
    assert run() == flows.RevocationResult(revoked=3)


@pytest.fixture
def hanging(ilert: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Responds, but far too late."""
    monkeypatch.setattr(_revocation, "MAX_SECONDS", 0.3)
    ilert.add_fault("revoke", Fault(delay=TOO_LATE), times=None)
    yield ilert
    for thread in threading.enumerate():
        if thread.name.startswith("ilert-revoke"):
            thread.join()


def test_a_commit_is_held_up_for_seconds_however_many_wait_for_ilert(
    people: People, hanging: StandIn
) -> None:
    people(20)
    started = time.monotonic()
    ConnectedAccount.objects.all().delete()
    one_after_the_other = 20 * _revocation.MAX_SECONDS
    assert time.monotonic() - started < one_after_the_other
    noted = PendingRevocation.objects.values_list("last_error", "next_attempt_at")
    assert list(noted) == [("timeout", None)] * 20


def test_a_dead_endpoint_is_waited_for_once_however_many_commits_there_are(
    people: People, hanging: StandIn
) -> None:
    for account in people(5):
        flows.disconnect(account)
    assert len(revocations_sent(hanging)) == 1
    assert PendingRevocation.objects.count() == 5


def test_after_a_minute_a_dead_endpoint_is_asked_again(people: People, ilert: StandIn) -> None:
    first, second = people(2)
    ilert.add_fault("revoke", GONE)
    flows.disconnect(first)
    pass_time(_revocation.ENDPOINT_PAUSE)
    flows.disconnect(second)
    assert ilert.live_refresh_tokens("acme", second.username) == 0


def test_an_outage_that_a_wrong_clock_dates_ahead_silences_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ahead = timezone.now() + timedelta(days=365)
    pending(account)
    PendingRevocation.objects.update(last_error="timeout", last_error_at=ahead)
    flows.disconnect(account)
    assert ilert.live_refresh_tokens("acme", "grace") == 0


def test_a_dead_endpoint_keeps_no_other_from_being_told_at_once(
    make_account: AccountFactory, ilert: StandIn
) -> None:
    flows.disconnect(make_account(username="elsewhere", api_url=DEAD))
    flows.disconnect(make_account())
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert PendingRevocation.objects.get().username == "elsewhere"


def test_a_revocation_that_fails_keeps_no_other_from_being_sent_at_once(
    people: People, ilert: StandIn
) -> None:
    ilert.add_fault("revoke", DOWN)
    for account in people(3):
        flows.disconnect(account)
    assert len(revocations_sent(ilert)) == 3
    assert PendingRevocation.objects.count() == 1


@pytest.mark.parametrize("outer", [nullcontext, transaction.atomic])
def test_what_was_rolled_back_is_not_sent_with_the_next_commit_and_holds_up_nothing(
    people: People, ilert: StandIn, outer: Callable[[], Any]
) -> None:
    first, second = people(2)
    with outer():
        with transaction.atomic():
            flows.disconnect(first)
            transaction.set_rollback(True)
        flows.disconnect(second)
    assert ilert.live_refresh_tokens("acme", first.username) == 1
    assert ilert.live_refresh_tokens("acme", second.username) == 0


# Only a 2xx confirms


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(401, '{"code": "invalid_client"}'), "invalid_client"),
        (Fault(200, "<h1>Log in to the network</h1>"), "unusable_response"),
        (GONE, "unreachable"),
    ],
)
def test_a_failed_revocation_is_kept_with_its_code_and_tried_again(
    kept: list[PendingRevocation],
    ilert: StandIn,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    code: str,
) -> None:
    first = kept[0]
    ilert.add_fault("revoke", fault)
    assert run(limit=1) == flows.RevocationResult(left=3, failures={first.pk: code})
    first.refresh_from_db()
    assert (first.attempts, first.last_error, first.given_up_at) == (1, code, None)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    told = f"The grant of 'user-0 @ acme' is not revoked at {first.api_url} yet: {code}"
    assert told in caplog.messages
    pass_time(MIN_DELAY)
    first_token, *others = tokens(*kept)
    assert run() == flows.RevocationResult(revoked=3)
    assert revocations_sent(ilert) == [first_token, *others, first_token]


def test_a_name_in_the_log_does_nothing_to_a_terminal(
    make_account: AccountFactory, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.add_fault("revoke", Fault(503))
    pending(make_account(username="\u202egrace\x1b[2J\n"))
    run()
    assert r"'\u202egrace\x1b[2J\n @ acme'" in caplog.text


def test_another_row_with_the_same_key_stays_pending(kept: list[PendingRevocation]) -> None:
    other = PendingRevocation(pk=kept[0].pk, account_uuid=uuid4())
    _revocation.conclude(other, None)
    _revocation.give_up(other, "timeout")
    assert PendingRevocation.objects.filter(given_up_at=None).count() == len(kept)


def test_a_token_that_ilert_no_longer_knows_is_done_with(
    kept: list[PendingRevocation], ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "user-0")
    assert run() == flows.RevocationResult(revoked=3)


# Each by itself, and what failed before last


def test_one_that_can_never_be_sent_keeps_no_other_back(
    people: People, make_account: AccountFactory, ilert: StandIn
) -> None:
    [dead] = pending(make_account(username="retired", api_url=DEAD))
    [lost] = pending(make_account(username="lost"))
    PendingRevocation.objects.filter(pk=lost.pk).update(account_uuid=uuid4())
    refused, good = pending(*people(2))
    ilert.add_fault("revoke", DOWN)
    failed = {dead.pk: "unreachable", lost.pk: "token_unreadable", refused.pk: "server_error"}
    result = flows.RevocationResult(revoked=1, left=2, given_up=1, failures=failed)
    assert run() == result
    assert run() == flows.RevocationResult(left=2)
    assert revocations_sent(ilert) == tokens(refused, good)


def test_an_endpoint_that_does_not_respond_is_asked_once_a_run_and_less_and_less_often(
    kept: list[PendingRevocation], ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    ilert.add_fault("revoke", GONE, times=None)
    assert run() == flows.RevocationResult(left=3, failures={kept[0].pk: "unreachable"})
    assert caplog.messages[-1] == f"2 more revocations wait for {kept[0].api_url}"
    assert run() == flows.RevocationResult(left=3)
    for expected in (1, 2, 4):
        assert [waits(row) for row in kept] == [timedelta(minutes=expected)] * 3
        pass_time(timedelta(minutes=expected))
        run()
    assert len(revocations_sent(ilert)) == 4


def test_the_last_one_at_an_endpoint_speaks_of_no_others(
    account: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    pending(account)
    ilert.add_fault("revoke", GONE)
    run()
    assert not [message for message in caplog.messages if "more revocations" in message]


def test_an_outage_of_one_endpoint_holds_up_no_other(
    make_account: AccountFactory, settings: Any
) -> None:
    alive = settings.ILERT_OAUTH_API_URL
    urls = {"a": DEAD, "b": alive, "c": DEAD, "d": alive}
    rows = pending(*(make_account(username=name, api_url=url) for name, url in urls.items()))
    assert run() == flows.RevocationResult(revoked=2, left=2, failures={rows[0].pk: "unreachable"})


def test_each_failure_doubles_the_wait_up_to_six_hours(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    [row] = pending(account)
    ilert.add_fault("revoke", DOWN, times=None)
    waited = []
    for _ in range(11):
        run()
        waited.append(waits(row))
        pass_time(waited[-1])
    minutes = [time.total_seconds() / 60 for time in waited]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360]


def test_a_wait_that_a_wrong_clock_made_too_long_is_not_waited_for(
    kept: list[PendingRevocation],
) -> None:
    PendingRevocation.objects.update(next_attempt_at=timezone.now() + timedelta(days=365))
    assert run().revoked == 3


# Given up


def test_one_that_cannot_be_read_is_given_up_at_once(
    account: ConnectedAccount, ilert: StandIn, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ILERT_OAUTH_ENCRYPTION_KEYS = ["n9SOr2BMbgmqLgR6nhSKYh2Y9XRyNfl_C_kC-sWmSRE="]
    flows.disconnect(account)
    assert account.status == Status.DISCONNECTED
    row = PendingRevocation.objects.get()
    assert (row.last_error, row.given_up_at is None) == ("token_unreadable", False)
    [message] = caplog.messages
    for words in ("grace @ acme", account.api_url, "token_unreadable", "remove this app in ilert"):
        assert words in message
    assert caplog.records[0].levelname == "WARNING"
    assert run() == flows.RevocationResult()
    assert revocations_sent(ilert) == []


@pytest.mark.parametrize("ends_at", [None, timedelta(days=90)])
def test_once_the_grant_has_ended_by_itself_it_is_given_up(
    account: ConnectedAccount,
    ilert: StandIn,
    caplog: pytest.LogCaptureFixture,
    ends_at: timedelta | None,
) -> None:
    [row] = pending(account)
    if ends_at:
        PendingRevocation.objects.update(grant_ends_at=timezone.now() + ends_at)
    ilert.add_fault("revoke", DOWN, times=None)
    assert run().given_up == 0
    pass_time((ends_at or MAX_AGE) - timedelta(hours=1))
    assert run().given_up == 0
    pass_time(timedelta(hours=1))
    assert run() == flows.RevocationResult(given_up=1, failures={row.pk: "server_error"})
    for words in ("grace @ acme", account.api_url, "server_error", "remove this app in ilert"):
        assert words in caplog.messages[-1]
    row.refresh_from_db()
    assert row.given_up_at is not None
    assert run() == flows.RevocationResult()
    assert len(revocations_sent(ilert)) == 3


def test_those_that_waited_for_a_dead_endpoint_until_their_end_are_given_up_together(
    kept: list[PendingRevocation], ilert: StandIn
) -> None:
    ilert.add_fault("revoke", GONE, times=None)
    run()
    pass_time(MAX_AGE)
    assert run().given_up == 3


def test_what_was_never_tried_is_not_given_up(kept: list[PendingRevocation]) -> None:
    PendingRevocation.objects.update(grant_ends_at=timezone.now() - timedelta(days=1))
    assert run(limit=1) == flows.RevocationResult(revoked=1, left=2)
    assert run() == flows.RevocationResult(revoked=2)


# The run


def test_a_run_sends_as_many_as_it_is_told_to_the_oldest_first(
    kept: list[PendingRevocation], ilert: StandIn
) -> None:
    first, second, _third = tokens(*kept)
    assert run(limit=2) == flows.RevocationResult(revoked=2, left=1)
    assert revocations_sent(ilert) == [first, second]


def test_a_run_does_not_send_what_is_forgotten_meanwhile(
    kept: list[PendingRevocation], ilert: StandIn, during_request: Any
) -> None:
    """As that of a token which ilert has given again to a user who has reconnected."""
    [first, forgotten, last] = kept
    expected = tokens(first, last)
    during_request(after=PendingRevocation.objects.filter(pk=forgotten.pk).delete)
    assert run().revoked == 2
    assert revocations_sent(ilert) == expected


def test_a_run_goes_on_after_its_first_page(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocations, "PAGE", 2)
    pending(*people(5))
    assert run() == flows.RevocationResult(revoked=5)


def test_a_run_sends_no_faster_than_its_rate_limit(kept: list[PendingRevocation]) -> None:
    started = time.monotonic()
    assert flows.revoke_pending(per_minute=300).revoked == 3
    assert time.monotonic() - started >= 0.4


def test_a_run_that_is_stopped_sends_nothing_more(
    kept: list[PendingRevocation], ilert: StandIn
) -> None:
    stop = threading.Event()
    stop.set()
    assert run(stop=stop) == flows.RevocationResult(left=3)
    assert revocations_sent(ilert) == []
