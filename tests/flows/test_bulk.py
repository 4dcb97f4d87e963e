from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, OperationalError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.flows import _lease, _storing
from django_ilert_oauth.flows._bulk import account_queue, refresh, runner
from django_ilert_oauth.flows._bulk.rate_limiter import RateLimiter
from django_ilert_oauth.flows._bulk.runner import MAX_ATTEMPTS, OUTAGE
from django_ilert_oauth.flows._lease import Lease, Look, take_lease
from django_ilert_oauth.flows._refresh_request import refresh_under
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.support.other_callers import at_once, without_autocommit
from tests.support.request_monitor import RequestMonitor

pytestmark = pytest.mark.django_db(transaction=True)


Accounts = list[ConnectedAccount]

REFUSED = Fault(status=401, body='{"code": "invalid_grant"}')
REJECTED = Fault(status=400, body='{"code": "invalid_request"}')
DROPPED = Fault(drop=True)


def run(**options: Any) -> flows.BulkResult:
    """As fast as it goes, unless told otherwise."""
    return flows.refresh_many(ConnectedAccount.objects.all(), **{"per_minute": 0, **options})


def rows() -> list[Any]:
    return list(ConnectedAccount.objects.order_by("pk").values())


def held_leases() -> int:
    return ConnectedAccount.objects.exclude(lease_id="", lease_ends_ms=0).count()


def asked(ilert: StandIn) -> Counter[str]:
    return Counter(made.form["refresh_token"] for made in ilert.token_requests)


def test_every_account_is_refreshed_across_pages(
    make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch, ilert: StandIn
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 2)
    for number in range(5):
        make_account(username=f"user{number}")
    result = flows.refresh_many(ConnectedAccount.objects.all())
    assert result == flows.BulkResult(refreshed=5)
    assert len({r.form["refresh_token"] for r in ilert.token_requests}) == 5


def test_one_bad_row_never_stops_the_rest(make_account: AccountFactory, ilert: StandIn) -> None:
    accounts = [make_account(username=f"user{number}") for number in range(5)]
    unreadable, refused, unavailable, foreign, good = accounts
    ConnectedAccount.objects.filter(pk=unreadable.pk).update(refresh_token_ciphertext="gAAAA")
    ConnectedAccount.objects.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    ilert.add_fault("token", Fault(status=401, body='{"code": "invalid_grant"}'))
    ilert.add_fault("token", Fault(drop=True))
    result = flows.refresh_many(ConnectedAccount.objects.all())
    assert result.failures == {
        unreadable.pk: "token_unreadable",
        refused.pk: "invalid_grant",
        unavailable.pk: "unreachable",
        foreign.pk: "endpoint_mismatch",
    }
    assert (result.refreshed, result.failed) == (1, 4)
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
        return refresh_under(lease, *args)

    monkeypatch.setattr(refresh, "refresh_under", fail_for_first)
    assert run() == flows.BulkResult(refreshed=1, failures={first.pk: "unexpected"})
    assert type(error).__name__ in caplog.text
    assert "the words" not in caplog.text


def test_missing_settings_are_told_at_once(account: ConnectedAccount, settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = ""
    with pytest.raises(ImproperlyConfigured, match="ILERT_OAUTH_CLIENT_SECRET is not set"):
        flows.refresh_many(ConnectedAccount.objects.all())


def test_what_was_refreshed_a_moment_ago_is_skipped_unless_forced(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    everyone = ConnectedAccount.objects.all()
    assert flows.refresh_many(everyone) == flows.BulkResult(skipped=1)
    assert flows.refresh_many(everyone, force=True) == flows.BulkResult(refreshed=1)
    assert len(ilert.token_requests) == 2


def test_no_more_than_the_limit_is_refreshed(make_account: AccountFactory, ilert: StandIn) -> None:
    for number in range(3):
        make_account(username=f"user{number}")
    result = flows.refresh_many(ConnectedAccount.objects.all(), limit=2)
    assert result.refreshed == len(ilert.token_requests) == 2


def test_dead_grants_are_left_alone(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(status=Status.RECONNECT_REQUIRED)
    result = flows.refresh_many(ConnectedAccount.objects.all())
    assert result.failures == {account.pk: "invalid_grant"}
    assert ilert.token_requests == []


def test_each_account_that_was_refreshed_is_told_by_its_key(people: People, ilert: StandIn) -> None:
    refused, early, good = people(3)
    ConnectedAccount.objects.filter(pk=early.pk).update(refreshed_at=timezone.now())
    ilert.revoke_app("acme", refused.username)
    done: list[int] = []
    run(on_done=done.append)
    assert done == [good.pk]


# One thread for the database, many requests under way


def test_as_many_requests_are_under_way_as_is_allowed(
    people: People, monitor: RequestMonitor
) -> None:
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(6)
    assert run(concurrency=3).refreshed == 6
    assert monitor.max_concurrent == 3


@pytest.mark.django_db
def test_inside_a_test_case_a_run_just_works(people: People, monitor: RequestMonitor) -> None:
    together = threading.Barrier(2, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(4)
    assert run(concurrency=2).refreshed == 4
    assert held_leases() == 0


@pytest.mark.parametrize("open_transaction", [transaction.atomic, without_autocommit])
def test_a_run_inside_a_transaction_is_refused(
    account: ConnectedAccount, ilert: StandIn, open_transaction: Callable[[], Any]
) -> None:
    with open_transaction(), pytest.raises(TransactionManagementError, match="refresh_many"):
        run()
    assert ilert.requests == []


def test_a_run_and_its_receivers_use_the_caller_s_database_connection_and_no_other(
    people: People, opened: list[Any]
) -> None:
    def query(**kwargs: Any) -> None:
        ConnectedAccount.objects.count()

    people(12)
    account_refreshed.connect(query)
    try:
        assert run(concurrency=3).refreshed == 12
    finally:
        account_refreshed.disconnect(query)
    assert opened == []


def test_a_receiver_that_raises_loses_nothing(people: People, ilert: StandIn) -> None:
    def break_down(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    people(6)
    account_refreshed.connect(break_down)
    try:
        result = run()
    finally:
        account_refreshed.disconnect(break_down)
    assert result == flows.BulkResult(refreshed=6)
    assert len(asked(ilert)) == 6


# Rate limit


@pytest.mark.parametrize("options", [{"per_minute": -1}, {"concurrency": 0}, {"concurrency": -1}])
def test_options_that_make_no_sense_are_refused(
    account: ConnectedAccount, ilert: StandIn, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        run(**options)
    assert ilert.requests == []


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those asked for; none is made."""
    asked_for: list[float] = []
    monkeypatch.setattr(RateLimiter, "pause", lambda self, seconds: asked_for.append(seconds))
    return asked_for


def limited(**headers: str) -> Fault:
    return Fault(
        status=429, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def test_a_rate_limit_pauses_the_whole_run_and_loses_nobody(
    people: People, monitor: RequestMonitor
) -> None:
    people(12)
    standin = monitor.standin
    standin.add_fault("token", limited(Retry_After="1"))
    assert run(per_minute=1200) == flows.BulkResult(refreshed=12)
    first = monitor.arrivals[0]
    # Without a pause all would come within 0.6 seconds; three other threads may be on their way.
    assert sum(arrival < first + 0.95 for arrival in monitor.arrivals) <= 4
    assert len(monitor.arrivals) == 13
    assert sorted(asked(standin).values()) == [1] * 11 + [2]


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", 7), ("300", 300), ("301", 300), ("99999999", 300)]
)
def test_retry_after_is_honoured_up_to_a_cap(
    account: ConnectedAccount, ilert: StandIn, pauses: list[float], retry_after: str, seconds: int
) -> None:
    ilert.add_fault("token", limited(Retry_After=retry_after))
    assert run() == flows.BulkResult(refreshed=1)
    assert pauses == [seconds]


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "soon"}])
def test_without_a_usable_retry_after_the_pause_is_10_to_30_seconds_with_jitter(
    people: People, ilert: StandIn, pauses: list[float], headers: dict[str, str]
) -> None:
    people(4)
    ilert.add_fault("token", limited(**headers), times=8)
    assert run(concurrency=1).refreshed == 2
    assert len(set(pauses)) == 8
    assert all(10 <= seconds <= 30 for seconds in pauses)


def test_an_account_that_stays_rate_limited_fails_and_keeps_its_tokens(
    people: People, ilert: StandIn, pauses: list[float], sent: list[Any]
) -> None:
    first, second = people(2)
    ilert.add_fault("token", limited(), times=MAX_ATTEMPTS)
    assert run(concurrency=1) == flows.BulkResult(refreshed=1, failures={first.pk: "rate_limited"})
    assert len(pauses) == MAX_ATTEMPTS
    row = ConnectedAccount.objects.get(pk=first.pk)
    assert (row.status, row.last_error) == (Status.CONNECTED, "rate_limited")
    assert row.refresh_token_ciphertext == first.refresh_token_ciphertext
    assert [(name, facts["account"].pk) for name, facts in sent] == [
        ("account_refresh_failed", first.pk),
        ("account_refreshed", second.pk),
    ]


def test_an_account_that_another_run_refreshes_during_the_pause_is_left_alone(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(limiter: RateLimiter, seconds: float) -> None:
        flows.refresh(ConnectedAccount.objects.get())

    monkeypatch.setattr(RateLimiter, "pause", pause)
    ilert.add_fault("token", limited())
    assert run(concurrency=1) == flows.BulkResult(skipped=1)
    assert len(ilert.token_requests) == 2


# Outage


def test_an_outage_stops_the_run_with_all_tokens_kept(people: People, ilert: StandIn) -> None:
    accounts = people(20)
    ilert.add_fault("token", DROPPED, times=None)
    result = run(concurrency=1)
    assert (result.stopped, result.refreshed, result.skipped) == ("outage", 0, 0)
    assert list(result.failures.values()) == ["unreachable"] * OUTAGE
    assert len(ilert.token_requests) == OUTAGE
    assert held_leases() == 0
    after = ConnectedAccount.objects.in_bulk()
    assert all(after[a.pk].status == Status.CONNECTED for a in accounts)
    assert all(after[a.pk].refresh_token_ciphertext == a.refresh_token_ciphertext for a in accounts)


def test_requests_side_by_side_stop_together_in_an_outage(people: People, ilert: StandIn) -> None:
    people(30)
    ilert.add_fault("token", DROPPED, times=None)
    result = run(concurrency=4)
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
    assert run(concurrency=1).stopped == stopped


@pytest.mark.parametrize("answer", [Fault(), REFUSED, REJECTED])
def test_an_answer_shows_that_ilert_is_there(people: People, ilert: StandIn, answer: Fault) -> None:
    people(19)
    for fault, times in [(DROPPED, 9), (answer, 1), (DROPPED, 9)]:
        ilert.add_fault("token", fault, times=times)
    assert run(concurrency=1).stopped != "outage"
    assert len(ilert.token_requests) == 19


def unreadable(account: ConnectedAccount) -> dict[str, Any]:
    return {"refresh_token_ciphertext": "broken"}


def without_refresh_token(account: ConnectedAccount) -> dict[str, Any]:
    return {"refresh_token_ciphertext": ""}


def expired_without_refresh_token(account: ConnectedAccount) -> dict[str, Any]:
    past = timezone.now() - timedelta(hours=1)
    return {"refresh_token_ciphertext": "", "access_token_expires_at": past}


NEVER_ASKED = [unreadable, without_refresh_token, expired_without_refresh_token]
Spoil = Callable[[ConnectedAccount], dict[str, Any]]


@pytest.mark.parametrize("spoil", NEVER_ASKED)
def test_an_account_that_ilert_is_not_asked_for_does_not_hide_an_outage(
    people: People, ilert: StandIn, spoil: Spoil
) -> None:
    bad = people(20)[5]
    ConnectedAccount.objects.filter(pk=bad.pk).update(**spoil(bad))
    ilert.add_fault("token", DROPPED, times=None)
    assert run(concurrency=1).stopped == "outage"
    assert len(ilert.token_requests) == OUTAGE


# Beside other runs


@pytest.mark.parametrize("rotate", [False, True])
def test_any_number_of_runs_refresh_each_account_once(
    people: People, ilert: StandIn, rotate: bool
) -> None:
    people(60)
    ilert.options.rotate, ilert.options.requests_per_minute = rotate, 0
    results: list[Any] = at_once(4, lambda number: run(concurrency=2))
    assert [result.failures for result in results] == [{}] * 4
    assert sum(result.refreshed for result in results) == 60
    assert len(asked(ilert)) == 60
    assert set(asked(ilert).values()) == {1}


def test_an_account_that_changes_hands_during_its_request_keeps_what_is_stored(
    people: People, monitor: RequestMonitor
) -> None:
    def disconnect(count: int) -> None:
        ConnectedAccount.objects.update(status=Status.DISCONNECTED, refresh_token_ciphertext="")
        connections.close_all()

    people(1)
    monitor.on_arrival = disconnect
    assert run() == flows.BulkResult(skipped=1)
    row = ConnectedAccount.objects.get()
    assert (row.status, row.refresh_token_ciphertext) == (Status.DISCONNECTED, "")


def test_an_account_costs_two_queries_and_its_share_of_a_page(
    people: People, ilert: StandIn
) -> None:
    people(40)
    with CaptureQueriesContext(connection) as queries:
        assert run(concurrency=1).refreshed == 40
    assert len(queries) <= 2 * 40 + 3


# Progress


def test_progress_grows_up_to_the_result(people: People, ilert: StandIn) -> None:
    _, foreign, *_ = people(8)
    ConnectedAccount.objects.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    counts: list[int] = []
    result = run(on_progress=lambda result: counts.append(result.done))
    assert counts == sorted(counts)
    assert len(set(counts)) > 1
    assert counts[-1] == result.done == 8


def test_progress_ends_with_what_was_skipped_last(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 2)
    accounts = people(4)
    late = [account.pk for account in accounts[2:]]
    ConnectedAccount.objects.filter(pk__in=late).update(refreshed_at=timezone.now())
    counts: list[int] = []
    run(concurrency=1, on_progress=lambda result: counts.append(result.done))
    assert counts[-1] == 4


def break_down(result: flows.BulkResult) -> None:
    raise RuntimeError("the bar broke")


def break_down_once() -> Callable[[flows.BulkResult], None]:
    broken = iter([break_down])
    return lambda result: next(broken, lambda result: None)(result)


@pytest.mark.parametrize("on_progress", [break_down, break_down_once()])
def test_progress_that_raises_ends_the_run_and_leaves_nothing_behind(
    people: People,
    monitor: RequestMonitor,
    on_progress: Callable[[flows.BulkResult], None],
) -> None:
    people(40)
    together = threading.Barrier(3, timeout=20)
    monitor.on_arrival = lambda count: together.wait() if count <= 3 else time.sleep(0.05)
    with pytest.raises(RuntimeError, match="the bar broke"):
        run(concurrency=3, on_progress=on_progress)
    assert len(monitor.arrivals) < 20
    assert held_leases() == 0
    assert ConnectedAccount.objects.filter(refreshed_at=None).count() == 40 - len(monitor.arrivals)


def test_progress_that_raises_keeps_no_refresh_from_the_receivers(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    with pytest.raises(RuntimeError, match="the bar broke"):
        run(concurrency=1, on_progress=break_down)
    assert [name for name, _ in sent] == ["account_refreshed"]


# Stopping


def test_a_stopped_run_finishes_the_requests_under_way_and_writes_their_tokens(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    together = threading.Barrier(3, action=stop.set, timeout=20)
    monitor.on_arrival = lambda count: together.wait()
    people(12)
    result = run(concurrency=3, stop=stop)
    assert result == flows.BulkResult(refreshed=3, stopped="interrupted")
    assert ConnectedAccount.objects.exclude(refreshed_at=None).count() == 3
    assert held_leases() == 0


def test_a_stopped_run_gives_back_what_waited_for_its_moment(
    people: People, monitor: RequestMonitor
) -> None:
    stop = threading.Event()
    monitor.on_arrival = lambda count: stop.set()
    people(6)
    result = run(concurrency=3, per_minute=1, stop=stop)
    # What was not asked for is nobody else's either: it is still due.
    assert result == flows.BulkResult(refreshed=1, stopped="interrupted")
    assert len(monitor.arrivals) == 1
    assert held_leases() == 0


def test_a_run_stopped_before_it_begins_asks_for_nothing(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    stop = threading.Event()
    stop.set()
    assert run(stop=stop) == flows.BulkResult(stopped="interrupted")
    assert ilert.requests == []


# Locked rows


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The row is, for so many tries to take its lease; then something happens to it."""

    def lock(account: ConnectedAccount, tries: int, then: Callable[[], object] = bool) -> None:
        left = iter(range(tries))

        def try_to_take(look: Look) -> Lease | None:
            if look.account == account and next(left, None) is not None:
                then()
                return None
            return take_lease(look)

        monkeypatch.setattr(refresh, "take_lease", try_to_take)

    return lock


@pytest.mark.parametrize("limit", [None, 2])
def test_a_locked_row_is_asked_for_after_all_others(
    people: People, ilert: StandIn, locked: Callable[..., None], limit: int | None
) -> None:
    first, second = people(2)
    locked(first, 1)
    assert run(concurrency=1, limit=limit) == flows.BulkResult(refreshed=2)
    assert list(asked(ilert)) == [second.refresh_token, first.refresh_token]


def test_a_row_that_is_still_locked_then_is_a_failure(
    people: People, locked: Callable[..., None]
) -> None:
    first, _second = people(2)
    locked(first, 2)
    assert run() == flows.BulkResult(refreshed=1, failures={first.pk: "row_locked"})


def test_a_row_that_another_caller_had_locked_to_refresh_it_is_left_alone(
    people: People, ilert: StandIn, locked: Callable[..., None]
) -> None:
    first, _second = people(2)
    locked(first, 1, then=lambda: flows.refresh(ConnectedAccount.objects.get(pk=first.pk)))
    assert run() == flows.BulkResult(refreshed=1, skipped=1)
    assert set(asked(ilert).values()) == {1}


def test_a_row_that_is_deleted_when_its_lease_is_taken_is_skipped(
    people: People, locked: Callable[..., None]
) -> None:
    first, _second = people(2)
    locked(
        first, 1, then=lambda: ConnectedAccount.objects.filter(pk=first.pk)._raw_delete("default")
    )
    assert run() == flows.BulkResult(refreshed=1, skipped=1)


def test_a_row_that_was_deleted_before_its_turn_is_skipped(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 1)
    _first, second = people(2)

    def delete_second(result: flows.BulkResult) -> None:
        ConnectedAccount.objects.filter(pk=second.pk)._raw_delete("default")

    assert run(concurrency=1, on_progress=delete_second) == flows.BulkResult(refreshed=1, skipped=1)


# A database that fails


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """So many statements of a kind fail."""
    short = {"PAUSE": 0.01, "STORING_SECONDS": 0.1, "DATABASE_PATIENCE": 0.1}
    for module, name in product((_lease, _storing, runner, refresh), short):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, short[name])

    def fail(*words: str, times: int = 10_000) -> Any:
        left = iter(range(times))

        def watch(execute: Any, sql: str, *args: Any) -> Any:
            if all(word in sql for word in words) and next(left, None) is not None:
                raise OperationalError("the words")
            return execute(sql, *args)

        return connection.execute_wrapper(watch)

    return fail


FIRST_LOOK = ["SELECT", "last_error_at"]
LEASE = ["UPDATE", "lease_id", "lease_ends_ms", "access_token_ciphertext"]
STORE = ["UPDATE", "refreshed_at"]


@pytest.mark.parametrize("words", [FIRST_LOOK, LEASE, STORE], ids=["look", "lease", "store"])
def test_a_database_that_fails_once_changes_nothing(
    people: People, ilert: StandIn, failing: Callable[..., Any], words: list[str]
) -> None:
    people(6)
    with failing(*words, times=2):
        assert run(concurrency=3) == flows.BulkResult(refreshed=6)
    assert set(asked(ilert).values()) == {1}


@pytest.mark.parametrize("words", [FIRST_LOOK, LEASE], ids=["look", "lease"])
def test_a_database_that_goes_on_failing_ends_the_run_before_ilert_is_asked(
    people: People,
    ilert: StandIn,
    failing: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    words: list[str],
) -> None:
    people(6)
    with failing(*words):
        result = run(concurrency=3)
    assert (result.stopped, result.refreshed) == ("database", 0)
    assert set(result.failures.values()) <= {"database"}
    assert ilert.token_requests == []
    assert "the words" not in caplog.text


@pytest.mark.django_db
def test_inside_a_test_case_a_database_that_fails_ends_the_run_at_once(
    people: People, ilert: StandIn, failing: Callable[..., Any]
) -> None:
    first, _second = people(2)
    with failing(*LEASE):
        result = run(concurrency=1)
    assert result == flows.BulkResult(failures={first.pk: "database"}, stopped="database")
    assert ilert.token_requests == []


def test_a_database_that_takes_no_tokens_costs_no_more_than_those_under_way(
    people: People, ilert: StandIn, failing: Callable[..., Any], settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (0.1, 0.2)
    first, second = people(2)
    with failing(*STORE):
        result = run(concurrency=2)
    assert result.failures == {first.pk: "not_stored", second.pk: "not_stored"}
    assert held_leases() == 0


def test_while_the_database_takes_no_tokens_the_run_asks_for_nobody_else(
    people: People, monitor: RequestMonitor, failing: Callable[..., Any]
) -> None:
    stored: list[int] = []

    def note(count: int) -> None:
        stored.append(ConnectedAccount.objects.exclude(refreshed_at=None).count())
        connections.close_all()

    monitor.on_arrival = note
    people(2)
    with failing(*STORE, times=30):
        assert run(concurrency=2, per_minute=600).refreshed == 2
    assert stored == [0, 1]
