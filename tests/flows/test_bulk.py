from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from itertools import count, product
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, OperationalError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import _lease, _refresh, _storing
from django_ilert_oauth.flows._bulk import account_queue, refresh, runner
from django_ilert_oauth.flows._bulk.client_state import OUTAGE
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from django_ilert_oauth.flows._bulk.runner import MAX_ATTEMPTS
from django_ilert_oauth.flows._lease import Lease, Snapshot, take_lease
from django_ilert_oauth.flows._refresh_request import refresh_with_lease
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import Fault, StandIn
from tests.conftest import People
from tests.support.other_callers import at_once, held_leases, receiving, stored, without_autocommit
from tests.support.own_signals import TimeLimitError
from tests.support.refresh_runs import refresh_all
from tests.support.request_monitor import RequestMonitor
from tests.support.statements import failing_statements

pytestmark = pytest.mark.django_db(transaction=True)


REFUSED = Fault(status=401, body='{"code": "invalid_grant"}')
DROPPED = Fault(drop=True)


def forget(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk)._raw_delete("default")


def asked(ilert: StandIn) -> Counter[str]:
    return Counter(made.form["refresh_token"] for made in ilert.token_requests)


def test_one_bad_row_never_stops_the_rest(people: People, ilert: StandIn) -> None:
    unreadable, refused, unavailable, foreign, ended, good = people(6)
    rows = ConnectedAccount.objects
    rows.filter(pk=unreadable.pk).update(refresh_token_ciphertext="gAAAA")
    rows.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    rows.filter(pk=ended.pk).update(status=Status.RECONNECT_REQUIRED)
    ilert.add_fault("token", REFUSED)
    ilert.add_fault("token", DROPPED)
    done: list[int] = []
    result = refresh_all(on_done=done.append)
    assert result.failures == {
        unreadable.pk: "token_unreadable",
        refused.pk: "invalid_grant",
        unavailable.pk: "unreachable",
        foreign.pk: "endpoint_mismatch",
        ended.pk: "invalid_grant",
    }
    assert (result.refreshed, len(ilert.token_requests), done) == (1, 3, [good.pk])
    good.refresh_from_db()
    assert good.refreshed_at is not None


@pytest.mark.parametrize("error", [RuntimeError("the words"), DataError("the words")])
def test_an_error_that_nobody_expected_is_one_row_s_and_says_no_more_than_its_type(
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    first, _second = people(2)

    def fail_for_first(lease: Lease, *args: Any) -> Any:
        if lease.account == first:
            raise error
        return refresh_with_lease(lease, *args)

    monkeypatch.setattr(refresh, "refresh_with_lease", fail_for_first)
    assert refresh_all() == flows.BulkResult(refreshed=1, failures={first.pk: "unexpected"})
    assert type(error).__name__ in caplog.text
    assert "the words" not in caplog.text


def test_missing_settings_are_told_at_once(account: ConnectedAccount, settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = ""
    with pytest.raises(ImproperlyConfigured, match="ILERT_OAUTH_CLIENT_SECRET is not set"):
        refresh_all()


def test_what_was_refreshed_a_moment_ago_is_skipped_unless_forced(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    assert refresh_all() == flows.BulkResult(skipped=1)
    assert refresh_all(force=True) == flows.BulkResult(refreshed=1)
    assert len(ilert.token_requests) == 2


def test_no_more_than_the_limit_is_refreshed(people: People, ilert: StandIn) -> None:
    people(3)
    assert refresh_all(limit=2).refreshed == len(ilert.token_requests) == 2


# One thread for the database, many requests under way


def test_as_many_requests_are_under_way_as_is_allowed(
    people: People, monitor: RequestMonitor
) -> None:
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(6)
    assert refresh_all(concurrency=3).refreshed == 6
    assert monitor.max_concurrent == 3


@pytest.mark.django_db
def test_inside_a_test_case_a_run_just_works(people: People, monitor: RequestMonitor) -> None:
    together = threading.Barrier(2, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(4)
    assert refresh_all(concurrency=2).refreshed == 4
    assert held_leases() == 0


@pytest.mark.parametrize("open_transaction", [transaction.atomic, without_autocommit])
@pytest.mark.parametrize("run", [flows.refresh_many, flows.check_many])
def test_a_run_inside_a_transaction_is_refused(
    account: ConnectedAccount, ilert: StandIn, open_transaction: Callable[[], Any], run: Any
) -> None:
    with open_transaction(), pytest.raises(TransactionManagementError, match=run.__name__):
        run(ConnectedAccount.objects.all())
    assert ilert.requests == []


def test_a_run_and_its_receivers_use_the_caller_s_database_connection_and_no_other(
    people: People, opened: list[Any]
) -> None:
    people(12)
    with receiving(account_refreshed, lambda **_facts: ConnectedAccount.objects.count()):
        assert refresh_all(concurrency=3).refreshed == 12
    assert opened == []


def test_a_receiver_that_raises_loses_nothing(people: People, ilert: StandIn) -> None:
    def break_down(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    people(6)
    with receiving(account_refreshed, break_down):
        assert refresh_all(concurrency=4) == flows.BulkResult(refreshed=6)
    assert len(asked(ilert)) == 6


# Rate limit


@pytest.mark.parametrize("options", [{"per_minute": -1}, {"concurrency": 0}])
def test_options_that_make_no_sense_are_refused(
    account: ConnectedAccount, ilert: StandIn, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        refresh_all(**options)
    assert ilert.requests == []


def limited(retry_after: str = "") -> Fault:
    return Fault(429, headers={"Retry-After": retry_after} if retry_after else {})


def test_a_rate_limit_pauses_the_complete_run_and_loses_nobody(
    people: People, monitor: RequestMonitor
) -> None:
    people(12)
    standin = monitor.standin
    standin.add_fault("token", limited("1"))
    assert refresh_all(concurrency=4, per_minute=1200) == flows.BulkResult(refreshed=12)
    first = monitor.arrivals[0]
    # Without a pause all would come within 0.6 seconds; three other threads may be on their way.
    assert sum(arrival < first + 0.95 for arrival in monitor.arrivals) <= 4
    assert sorted(asked(standin).values()) == [1] * 11 + [2]


@pytest.mark.parametrize(("retry_after", "seconds"), [("300", 300), ("301", 300)])
def test_retry_after_is_honoured_up_to_a_cap(
    account: ConnectedAccount, ilert: StandIn, pauses: list[float], retry_after: str, seconds: int
) -> None:
    ilert.add_fault("token", limited(retry_after))
    assert refresh_all() == flows.BulkResult(refreshed=1)
    assert pauses == [seconds]


def test_without_a_usable_retry_after_the_pause_is_10_to_30_seconds_with_jitter(
    people: People, ilert: StandIn, pauses: list[float]
) -> None:
    people(4)
    ilert.add_fault("token", limited("soon"), times=8)
    assert refresh_all().refreshed == 2
    assert len(set(pauses)) == 8
    assert all(10 <= seconds <= 30 for seconds in pauses)


def test_an_account_that_stays_rate_limited_fails_and_keeps_its_tokens(
    people: People, ilert: StandIn, pauses: list[float], sent: list[Any]
) -> None:
    first, second = people(2)
    ilert.add_fault("token", limited(), times=MAX_ATTEMPTS)
    assert refresh_all() == flows.BulkResult(refreshed=1, failures={first.pk: "rate_limited"})
    assert len(pauses) == MAX_ATTEMPTS
    row = ConnectedAccount.objects.get(pk=first.pk)
    assert (row.status, row.last_error) == (Status.CONNECTED, "rate_limited")
    assert row.refresh_token_ciphertext == first.refresh_token_ciphertext
    assert [(name, facts["account"].pk) for name, facts in sent] == [
        ("account_refresh_failed", first.pk),
        ("account_refreshed", second.pk),
    ]


def test_an_account_that_another_run_refreshes_during_the_pause_is_skipped(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(limiter: RateLimiter, seconds: float) -> None:
        flows.refresh(ConnectedAccount.objects.get())

    monkeypatch.setattr(RateLimiter, "pause", pause)
    ilert.add_fault("token", limited())
    assert refresh_all() == flows.BulkResult(skipped=1)
    assert len(ilert.token_requests) == 2


# Outage


def test_an_outage_stops_the_run_with_all_tokens_kept(people: People, ilert: StandIn) -> None:
    accounts = people(20)
    ilert.add_fault("token", DROPPED, times=None)
    result = refresh_all()
    assert (result.stopped, result.refreshed, result.skipped) == ("outage", 0, 0)
    assert list(result.failures.values()) == ["unreachable"] * OUTAGE
    assert len(ilert.token_requests) == OUTAGE
    assert held_leases() == 0
    for row in ConnectedAccount.objects.all():
        [before] = [each for each in accounts if each == row]
        assert row.status == Status.CONNECTED
        assert row.refresh_token_ciphertext == before.refresh_token_ciphertext


def test_requests_side_by_side_stop_together_in_an_outage(people: People, ilert: StandIn) -> None:
    people(30)
    ilert.add_fault("token", DROPPED, times=None)
    result = refresh_all(concurrency=4)
    assert result.stopped == "outage"
    assert OUTAGE <= len(ilert.token_requests) <= OUTAGE + 3
    assert result.done == len(ilert.token_requests)
    assert held_leases() == 0


@pytest.mark.parametrize(("status", "stopped"), [(502, "outage"), (429, "outage"), (500, "")])
def test_what_a_gateway_says_is_an_outage_and_what_ilert_says_of_an_account_is_none(
    people: People, ilert: StandIn, pauses: list[float], status: int, stopped: str
) -> None:
    people(12)
    ilert.add_fault("token", Fault(status), times=None)
    assert refresh_all().stopped == stopped


def test_rows_that_are_locked_are_no_outage_however_many(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "take_lease", lambda snapshot: None)
    accounts = people(OUTAGE + 1)
    result = refresh_all()
    assert result.failures == {account.pk: "row_locked" for account in accounts}
    assert result.stopped == ""


@pytest.mark.parametrize("response", [Fault(), REFUSED, Fault(400, '{"code": "invalid_request"}')])
def test_a_response_shows_that_ilert_is_there(
    people: People, ilert: StandIn, response: Fault
) -> None:
    people(19)
    for fault, times in [(DROPPED, 9), (response, 1), (DROPPED, 9)]:
        ilert.add_fault("token", fault, times=times)
    assert refresh_all().stopped != "outage"
    assert len(ilert.token_requests) == 19


@pytest.mark.parametrize(
    "columns",
    [
        {"refresh_token_ciphertext": "broken"},
        {"refresh_token_ciphertext": ""},
        {
            "refresh_token_ciphertext": "",
            "access_token_expires_at": timezone.now() - timedelta(seconds=1),
        },
    ],
    ids=["unreadable", "without refresh token", "expired without it"],
)
def test_an_account_that_ilert_is_not_asked_for_does_not_hide_an_outage(
    people: People, ilert: StandIn, columns: dict[str, Any]
) -> None:
    bad = people(12)[5]
    ConnectedAccount.objects.filter(pk=bad.pk).update(**columns)
    ilert.add_fault("token", DROPPED, times=None)
    assert refresh_all().stopped == "outage"
    assert len(ilert.token_requests) == OUTAGE


# Beside other runs


def test_any_number_of_runs_refresh_each_account_once(people: People, ilert: StandIn) -> None:
    people(40)
    ilert.options.rotate, ilert.options.requests_per_minute = True, 0
    results: list[Any] = at_once(4, lambda number: refresh_all(concurrency=2))
    assert [result.failures for result in results] == [{}] * 4
    assert sum(result.refreshed for result in results) == 40
    assert sorted(asked(ilert).values()) == [1] * 40


def test_an_account_that_changes_hands_during_its_request_keeps_what_is_stored(
    people: People, monitor: RequestMonitor
) -> None:
    ended = {"status": Status.DISCONNECTED, "refresh_token_ciphertext": ""}

    def disconnect(count: int) -> None:
        ConnectedAccount.objects.update(**ended)
        connections.close_all()

    [account] = people(1)
    monitor.on_arrival = disconnect
    assert refresh_all() == flows.BulkResult(skipped=1)
    assert stored(account, *ended) == ended


def test_an_account_costs_two_queries_and_its_share_of_a_page(people: People) -> None:
    people(40)
    with CaptureQueriesContext(connection) as queries:
        assert refresh_all().refreshed == 40
    assert len(queries) <= 2 * 40 + 3


# Progress


def test_progress_grows_up_to_the_result_with_what_was_skipped_last(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 2)
    _, foreign, *late = people(4)
    rows = ConnectedAccount.objects
    rows.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    rows.filter(pk__in=[each.pk for each in late]).update(refreshed_at=timezone.now())
    counts: list[int] = []
    result = refresh_all(on_progress=lambda result: counts.append(result.done))
    assert counts == sorted(counts)
    assert len(set(counts)) > 1
    assert counts[-1] == result.done == 4


def break_down(result: flows.BulkResult) -> None:
    raise RuntimeError("the bar broke")


def test_progress_that_raises_ends_the_run_and_leaves_nothing_behind(
    people: People, monitor: RequestMonitor
) -> None:
    people(40)
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait() if count <= 3 else time.sleep(0.05)
    with pytest.raises(RuntimeError, match="the bar broke"):
        refresh_all(concurrency=3, on_progress=break_down)
    assert len(monitor.arrivals) < 20
    assert held_leases() == 0
    assert ConnectedAccount.objects.filter(refreshed_at=None).count() == 40 - len(monitor.arrivals)


def test_progress_that_raises_keeps_no_refresh_from_the_receivers(
    account: ConnectedAccount, sent: list[Any]
) -> None:
    with pytest.raises(RuntimeError, match="the bar broke"):
        refresh_all(on_progress=break_down)
    assert [name for name, _ in sent] == ["account_refreshed"]


@pytest.mark.parametrize("context", [nullcontext, transaction.atomic])
def test_a_receiver_does_not_wait_for_what_its_own_run_has_to_store_first(
    people: People,
    ilert: StandIn,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    """Until the lease lapsed, and then sent the used token once more."""
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.5)
    monkeypatch.setattr(_lease, "STORING_SECONDS", 0.5)
    monkeypatch.setattr(_refresh, "has_one_writer", lambda _using: False)
    ilert.options.rotate = True
    codes: list[str] = []
    waiting = set(people(2))

    def refresh_the_other(account: ConnectedAccount, **_facts: Any) -> None:
        waiting.discard(account)
        for other in waiting:
            with context(), pytest.raises(IlertUnavailableError) as caught:
                flows.refresh(other, force=True)
            codes.append(caught.value.code)

    with receiving(account_refreshed, refresh_the_other):
        result = refresh_all(concurrency=2)
    assert (result.refreshed, codes) == (2, ["busy"])
    assert [made.status for made in ilert.token_requests] == [200, 200]


# Stopping


def test_a_stopped_run_finishes_the_requests_under_way_and_writes_their_tokens(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    together = threading.Barrier(3, action=stop.set, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(12)
    result = refresh_all(concurrency=3, stop=stop)
    assert result == flows.BulkResult(refreshed=3, stopped="interrupted")
    assert ConnectedAccount.objects.exclude(refreshed_at=None).count() == 3
    assert held_leases() == 0


def test_a_stopped_run_gives_back_what_waited_for_its_moment(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    monitor.on_arrival = lambda count: stop.set()
    people(6)
    result = refresh_all(concurrency=3, per_minute=1, stop=stop)
    # What was not asked for is nobody else's either: it is still due.
    assert result == flows.BulkResult(refreshed=1, stopped="interrupted")
    assert len(monitor.arrivals) == 1
    assert held_leases() == 0


def test_a_run_stopped_before_it_begins_asks_for_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    stop = threading.Event()
    stop.set()
    assert refresh_all(stop=stop) == flows.BulkResult(stopped="interrupted")
    assert ilert.requests == []


@pytest.mark.parametrize("number", range(6))
def test_a_time_limit_ends_a_run_once_the_requests_under_way_are_stored(
    people: People, ilert: StandIn, time_limit: Callable[[], None], number: int
) -> None:
    """Whichever statement it comes upon: that takes a lease, or that stores tokens."""
    updates = count()

    def strike(execute: Any, sql: str, *args: Any) -> Any:
        if "UPDATE" in sql and next(updates) == number:
            time.sleep(0.1)  # for the other response, which could make room for a new request
            time_limit()
        return execute(sql, *args)

    ilert.options.rotate = True
    accounts = people(4)
    with connection.execute_wrapper(strike), pytest.raises(TimeLimitError):
        refresh_all(concurrency=2)
    assert len(ilert.token_requests) < len(accounts)
    stored = {account.refresh_token.reveal() for account in ConnectedAccount.objects.all()}
    assert stored == set(ilert.ledger().values())


# Locked rows


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The row is, for so many attempts to take its lease; then something happens to it."""

    def lock(
        account: ConnectedAccount, attempts: int = 1, then: Callable[[], object] = bool
    ) -> None:
        left = iter(reversed(range(attempts)))

        def try_to_take(snapshot: Snapshot) -> Lease | None:
            if snapshot.account != account or (attempts_left := next(left, None)) is None:
                return take_lease(snapshot)
            if attempts_left == 0:
                then()
            return None

        monkeypatch.setattr(refresh, "take_lease", try_to_take)

    return lock


@pytest.mark.parametrize("limit", [None, 2])
def test_a_locked_row_is_asked_for_after_all_others(
    people: People, ilert: StandIn, locked: Callable[..., None], limit: int | None
) -> None:
    first, second = people(2)
    locked(first)
    assert refresh_all(limit=limit) == flows.BulkResult(refreshed=2)
    assert list(asked(ilert)) == [second.refresh_token, first.refresh_token]


def test_a_row_that_is_still_locked_then_is_a_failure(
    people: People, locked: Callable[..., None]
) -> None:
    first, _second = people(2)
    locked(first, attempts=2)
    assert refresh_all() == flows.BulkResult(refreshed=1, failures={first.pk: "row_locked"})


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("then", [flows.refresh, forget])
def test_a_row_that_another_caller_had_locked_to_refresh_or_delete_it_is_skipped(
    people: People,
    ilert: StandIn,
    locked: Callable[..., None],
    then: Callable[..., Any],
    attempts: int,
) -> None:
    first, _second = people(2)
    locked(first, attempts, then=lambda: then(ConnectedAccount.objects.get(pk=first.pk)))
    assert refresh_all() == flows.BulkResult(refreshed=1, skipped=1)
    assert set(asked(ilert).values()) == {1}


def test_a_row_that_was_deleted_before_its_turn_is_skipped(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 1)
    _first, second = people(2)
    result = refresh_all(on_progress=lambda result: forget(second))
    assert result == flows.BulkResult(refreshed=1, skipped=1)


# A database that fails


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"PAUSE": 0.01, "STORING_SECONDS": 0.1, "DATABASE_PATIENCE": 0.1}
    for module, name in product((_lease, _storing, runner, refresh), short):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, short[name])


failing = partial(failing_statements, error=OperationalError)


FIRST_LOOK = ["SELECT", "last_error_at"]
LEASE = ["UPDATE", "lease_id", "lease_ends_ms", "access_token_ciphertext"]
STORE = ["UPDATE", "refreshed_at"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("words", [FIRST_LOOK, LEASE, STORE], ids=["look", "lease", "store"])
def test_a_database_that_fails_once_changes_nothing(
    people: People, ilert: StandIn, words: list[str]
) -> None:
    people(6)
    with failing(*words, times=2):
        assert refresh_all(concurrency=3) == flows.BulkResult(refreshed=6)
    assert set(asked(ilert).values()) == {1}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("words", [FIRST_LOOK, LEASE], ids=["look", "lease"])
def test_a_database_that_goes_on_failing_ends_the_run_before_ilert_is_asked(
    people: People, ilert: StandIn, caplog: pytest.LogCaptureFixture, words: list[str]
) -> None:
    people(6)
    with failing(*words):
        result = refresh_all(concurrency=3)
    assert (result.stopped, result.refreshed) == ("database", 0)
    assert set(result.failures.values()) <= {"database"}
    assert ilert.token_requests == []
    assert "the words" not in caplog.text


@pytest.mark.django_db
def test_inside_a_test_case_a_database_that_fails_ends_the_run_at_once(
    people: People, ilert: StandIn
) -> None:
    first, _second = people(2)
    with failing(*LEASE):
        result = refresh_all()
    assert result == flows.BulkResult(failures={first.pk: "database"}, stopped="database")
    assert ilert.token_requests == []


@pytest.mark.usefixtures("impatient")
def test_a_database_that_takes_no_tokens_costs_no_more_than_those_under_way(
    people: People, ilert: StandIn, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.2)
    first, second, *_never_asked = people(4)
    with failing(*STORE):
        result = refresh_all(concurrency=2)
    assert result.failures == {first.pk: "not_stored", second.pk: "not_stored"}
    assert (result.stopped, len(ilert.token_requests), held_leases()) == ("database", 2, 0)


@pytest.mark.usefixtures("impatient")
def test_while_the_database_takes_no_tokens_the_run_asks_for_nobody_else(
    people: People, monitor: RequestMonitor
) -> None:
    stored: list[int] = []

    def note(count: int) -> None:
        stored.append(ConnectedAccount.objects.exclude(refreshed_at=None).count())
        connections.close_all()

    monitor.on_arrival = note
    people(2)
    with failing(*STORE, times=30):
        assert refresh_all(concurrency=2, per_minute=600).refreshed == 2
    assert stored == [0, 1]
