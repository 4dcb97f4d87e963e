from __future__ import annotations

import gc
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertRejectedError
from django_ilert_oauth.flows import batches
from django_ilert_oauth.flows.pace import Pace
from django_ilert_oauth.flows.run import OUTAGE, RATE_LIMIT_TRIES
from django_ilert_oauth.models import ConnectedAccount, DatabaseTime, Reason, Status
from django_ilert_oauth.signals import account_refreshed
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory, People
from tests.door import Door

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


def renewed(ilert: StandIn) -> Counter[str]:
    made = [made for made in ilert.token_requests if made.status == 200]
    return Counter(one.form["refresh_token"] for one in made)


def test_every_account_is_renewed_across_pages(
    make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch, ilert: StandIn
) -> None:
    monkeypatch.setattr(batches, "SIZE", 2)
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


def test_an_error_that_nobody_expected_is_one_row_s_and_says_no_more_than_its_type(
    make_account: AccountFactory, caplog: pytest.LogCaptureFixture
) -> None:
    first, _second = make_account(), make_account(username="ada")

    def refuse_first(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "granted_scope" in sql and first.pk in params:
            raise DatabaseError(f"no room for {params}")
        return execute(sql, params, *args)

    with connection.execute_wrapper(refuse_first):
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=1)
    assert result.failures == {first.pk: "unexpected"}
    assert result.refreshed == 1
    assert "DatabaseError" in caplog.text
    assert "no room" not in caplog.text


def test_missing_settings_are_told_at_once(account: ConnectedAccount, settings: Any) -> None:
    settings.ILERT_OAUTH_CLIENT_SECRET = ""
    with pytest.raises(ImproperlyConfigured, match="ILERT_OAUTH_CLIENT_SECRET is not set"):
        flows.refresh_many(ConnectedAccount.objects.all())


def test_what_was_renewed_a_moment_ago_is_skipped_unless_forced(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    flows.refresh(account)
    everyone = ConnectedAccount.objects.all()
    assert flows.refresh_many(everyone) == flows.BulkResult(skipped=1)
    assert flows.refresh_many(everyone, force=True) == flows.BulkResult(refreshed=1)
    assert len(ilert.token_requests) == 2


def test_no_more_than_the_limit_is_renewed(make_account: AccountFactory, ilert: StandIn) -> None:
    for number in range(3):
        make_account(username=f"user{number}")
    result = flows.refresh_many(ConnectedAccount.objects.all(), limit=2)
    assert result.refreshed == len(ilert.token_requests) == 2


def test_dead_grants_are_left_alone(account: ConnectedAccount, ilert: StandIn) -> None:
    ConnectedAccount.objects.update(status=Status.RECONNECT_REQUIRED)
    result = flows.refresh_many(ConnectedAccount.objects.all())
    assert result.failures == {account.pk: "invalid_grant"}
    assert ilert.token_requests == []


def test_grants_refused_for_a_wrong_secret_come_back_when_it_is_right(
    account: ConnectedAccount, ilert: StandIn, settings: Any, sent: list[Any]
) -> None:
    right = settings.ILERT_OAUTH_CLIENT_SECRET
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    everyone = ConnectedAccount.objects.all()
    assert flows.refresh_many(everyone).failures == {account.pk: "invalid_grant"}
    assert flows.refresh_many(everyone, retry_reconnect_required=True).failed == 1
    settings.ILERT_OAUTH_CLIENT_SECRET = right
    assert flows.refresh_many(everyone, retry_reconnect_required=True).refreshed == 1
    account.refresh_from_db()
    assert (account.status, account.reason) == (Status.CONNECTED, "")
    assert [name for name, _ in sent] == ["account_revoked", "account_refreshed"]


def test_each_account_that_was_renewed_is_told_by_its_key(people: People, ilert: StandIn) -> None:
    refused, early, good = people(3)
    ConnectedAccount.objects.filter(pk=early.pk).update(refreshed_at=timezone.now())
    ilert.revoke_app("acme", refused.username)
    done: list[int] = []
    run(on_done=done.append)
    assert done == [good.pk]


# Threads


def test_as_many_requests_are_under_way_as_there_are_threads(people: People, door: Door) -> None:
    together = threading.Barrier(3, timeout=20)
    door.on_arrival = lambda count: together.wait()
    people(6)
    assert run(concurrency=3).refreshed == 6
    assert door.most_inside == 3


@pytest.mark.django_db
def test_inside_a_test_case_one_thread_does_it_all(people: People, door: Door) -> None:
    people(4)
    assert run(concurrency=3).refreshed == 4
    assert door.most_inside == 1
    assert held_leases() == 0


def test_rows_in_the_memory_of_one_connection_are_renewed_by_one_thread(
    people: People, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "is_in_memory_db", lambda: True, raising=False)
    people(4)
    assert run(concurrency=3).refreshed == 4
    assert door.most_inside == 1


def test_a_run_inside_a_transaction_is_refused(account: ConnectedAccount, ilert: StandIn) -> None:
    with transaction.atomic(), pytest.raises(TransactionManagementError, match="refresh_many"):
        run()
    assert ilert.requests == []


def test_each_thread_opens_one_database_connection_and_closes_it(people: People) -> None:
    opened: list[Any] = []

    def note(connection: Any, **kwargs: Any) -> None:
        opened.append((threading.get_ident(), connection))

    def query(**kwargs: Any) -> None:
        ConnectedAccount.objects.count()

    people(12)
    connection_created.connect(note)
    account_refreshed.connect(query)
    try:
        assert run(concurrency=3).refreshed == 12
    finally:
        connection_created.disconnect(note)
        account_refreshed.disconnect(query)
    threads = [thread for thread, _ in opened]
    assert len(threads) == len(set(threads)) <= 3
    assert threading.get_ident() not in threads
    assert [one.connection for _, one in opened] == [None] * len(opened)


class KeepAlive(BaseHTTPRequestHandler):
    """Answers each refresh, and keeps connections open as long as the other side does."""

    protocol_version = "HTTP/1.1"
    together = threading.Barrier(2)
    all_connections: set[Any]
    open_connections: set[Any]

    def setup(self) -> None:
        super().setup()
        self.all_connections.add(self.client_address)
        self.open_connections.add(self.client_address)

    def finish(self) -> None:
        super().finish()
        self.open_connections.discard(self.client_address)

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        self.together.wait(timeout=20)
        body = json.dumps({"access_token": "new", "expires_in": 3600}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def keep_alive(settings: Any) -> Iterator[type[KeepAlive]]:
    KeepAlive.all_connections, KeepAlive.open_connections = set(), set()
    with ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive) as server:
        settings.ILERT_OAUTH_API_URL = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield KeepAlive
        server.shutdown()
        thread.join()


def test_each_thread_keeps_one_http_connection_and_closes_it(
    ilert: StandIn, keep_alive: type[KeepAlive], people: People
) -> None:
    people(8)
    assert run(concurrency=2).refreshed == 8
    gc.collect()
    assert len(keep_alive.all_connections) == 2
    wait_until(lambda: not keep_alive.open_connections)


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_receivers_run_in_the_threads_and_one_that_raises_loses_nothing(
    people: People, ilert: StandIn
) -> None:
    def break_down(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    people(6)
    account_refreshed.connect(break_down)
    try:
        result = run()
    finally:
        account_refreshed.disconnect(break_down)
    assert result == flows.BulkResult(refreshed=6)
    assert len(renewed(ilert)) == 6


# Pace


def test_requests_arrive_evenly_spread_and_never_above_the_pace(people: People, door: Door) -> None:
    people(40)
    assert run(per_minute=1200).refreshed == 40
    in_a_second = [
        sum(start <= other < start + 1 for other in door.arrivals) for start in door.arrivals
    ]
    # 20, and those that the other threads had under way.
    assert max(in_a_second) <= 20 + 3
    gaps = [after - before for before, after in pairwise(door.arrivals)]
    assert statistics.median(gaps) > 0.025
    assert door.arrivals[-1] - door.arrivals[0] > 39 * 0.05 - 0.1


def test_the_settings_name_the_pace(people: People, door: Door, settings: Any) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 600
    people(4)
    run(per_minute=None)
    assert door.arrivals[-1] - door.arrivals[0] > 0.25


def test_a_pace_of_0_lifts_it(people: People, ilert: StandIn, settings: Any) -> None:
    settings.ILERT_OAUTH_REQUESTS_PER_MINUTE = 1
    people(12)
    assert run(per_minute=0).refreshed == 12


@pytest.mark.parametrize("options", [{"per_minute": -1}, {"concurrency": 0}, {"concurrency": -1}])
def test_a_pace_or_concurrency_that_makes_no_sense_is_refused(
    account: ConnectedAccount, ilert: StandIn, options: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        run(**options)
    assert ilert.requests == []


# Rate limit


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those asked for; none is made."""
    asked_for: list[float] = []
    monkeypatch.setattr(Pace, "pause", lambda self, seconds: asked_for.append(seconds))
    return asked_for


def limited(**headers: str) -> Fault:
    return Fault(
        status=429, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


def test_a_rate_limit_pauses_the_whole_run_and_loses_nobody(people: People, door: Door) -> None:
    people(12)
    standin = door.standin
    standin.add_fault("token", limited(Retry_After="1"))
    assert run(per_minute=1200) == flows.BulkResult(refreshed=12)
    first = door.arrivals[0]
    # Without a pause all would come within 0.6 seconds; three other threads may be on their way.
    assert sum(arrival < first + 0.95 for arrival in door.arrivals) <= 4
    assert len(door.arrivals) == 13
    assert set(renewed(standin).values()) == {1}
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
    ilert.add_fault("token", limited(), times=RATE_LIMIT_TRIES)
    assert run(concurrency=1) == flows.BulkResult(refreshed=1, failures={first.pk: "rate_limited"})
    assert len(pauses) == RATE_LIMIT_TRIES
    row = ConnectedAccount.objects.get(pk=first.pk)
    assert (row.status, row.last_error) == (Status.CONNECTED, "rate_limited")
    assert row.refresh_token_ciphertext == first.refresh_token_ciphertext
    assert [(name, facts["account"].pk) for name, facts in sent] == [
        ("account_refresh_failed", first.pk),
        ("account_refreshed", second.pk),
    ]


def test_an_account_that_another_run_renews_during_the_pause_is_left_alone(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(pace: Pace, seconds: float) -> None:
        flows.refresh(ConnectedAccount.objects.get())

    monkeypatch.setattr(Pace, "pause", pause)
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


def test_threads_stop_together_in_an_outage(people: People, ilert: StandIn) -> None:
    people(30)
    ilert.add_fault("token", DROPPED, times=None)
    result = run(concurrency=4)
    assert result.stopped == "outage"
    assert OUTAGE <= len(ilert.token_requests) <= OUTAGE + 3
    assert result.done == len(ilert.token_requests)
    assert held_leases() == 0


@pytest.mark.parametrize("answer", [Fault(), REFUSED, REJECTED])
def test_an_answer_shows_that_ilert_is_there(people: People, ilert: StandIn, answer: Fault) -> None:
    people(19)
    for fault, times in [(DROPPED, 9), (answer, 1), (DROPPED, 9)]:
        ilert.add_fault("token", fault, times=times)
    assert run(concurrency=1).stopped == ""
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


# Wrong credentials


@pytest.mark.parametrize("concurrency", [1, 4])
def test_ten_refusals_and_nothing_else_stop_the_run_and_mark_nothing(
    people: People, ilert: StandIn, sent: list[Any], settings: Any, concurrency: int
) -> None:
    people(20)
    before = rows()
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    result = run(concurrency=concurrency)
    assert (result.stopped, result.refreshed) == ("credentials", 0)
    assert 10 <= len(ilert.token_requests) < 10 + concurrency
    assert list(result.failures.values()) == ["invalid_grant"] * len(ilert.token_requests)
    assert rows() == before
    assert sent == []


def test_a_good_answer_that_comes_after_the_stop_does_not_mark_what_is_refused_later(
    people: People, ilert: StandIn, sent: list[Any]
) -> None:
    people(12)
    ilert.add_fault("token", Fault(delay=0.7))
    ilert.add_fault("token", Fault(REFUSED.status, REFUSED.body, delay=1.4))
    ilert.add_fault("token", REFUSED, times=10)
    assert run(concurrency=12).stopped == "credentials"
    assert [name for name, _ in sent] == ["account_refreshed"]
    assert ConnectedAccount.objects.exclude(status=Status.CONNECTED).count() == 0
    assert held_leases() == 0


def test_fewer_refusals_end_the_grants(people: People, ilert: StandIn, sent: list[Any]) -> None:
    people(9)
    ilert.add_fault("token", REFUSED, times=9)
    result = run()
    assert (result.stopped, result.failed) == ("", 9)
    assert_ended(sent, 9)


def assert_ended(sent: list[Any], count: int) -> None:
    ended = ConnectedAccount.objects.filter(
        status=Status.RECONNECT_REQUIRED, reason=Reason.REVOKED_AT_ILERT, lease_id=""
    )
    revoked = [facts for name, facts in sent if name == "account_revoked"]
    assert sorted(facts["account"].pk for facts in revoked) == sorted(
        ended.values_list("pk", flat=True)
    )
    assert len(revoked) == count
    assert {(facts["reason"], facts["request"]) for facts in revoked} <= {
        (Reason.REVOKED_AT_ILERT, None)
    }


@pytest.mark.parametrize("answer", [Fault(), REJECTED])
@pytest.mark.parametrize("position", [0, 4, 9])
def test_any_other_answer_among_the_first_ten_shows_that_the_credentials_are_right(
    people: People, ilert: StandIn, sent: list[Any], answer: Fault, position: int
) -> None:
    people(14)
    for fault, times in [(REFUSED, position), (answer, 1), (REFUSED, 13 - position)]:
        ilert.add_fault("token", fault, times=times) if times else None
    result = run(concurrency=1)
    assert result.stopped == ""
    assert len(ilert.token_requests) == 14
    assert list(result.failures.values()).count("invalid_grant") == 13
    assert_ended(sent, 13)
    assert held_leases() == 0


def test_a_good_answer_counts_at_once_however_long_receivers_take(
    people: People, ilert: StandIn
) -> None:
    def wait_for_the_others(**kwargs: Any) -> None:
        deadline = time.monotonic() + 2
        while len(ilert.token_requests) < 14 and time.monotonic() < deadline:
            time.sleep(0.01)

    people(14)
    ilert.add_fault("token", Fault())
    ilert.add_fault("token", REFUSED, times=13)
    account_refreshed.connect(wait_for_the_others)
    try:
        result = run(concurrency=2)
    finally:
        account_refreshed.disconnect(wait_for_the_others)
    assert (result.stopped, result.failed) == ("", 13)


def test_a_wrong_client_told_as_such_is_no_proof_of_the_credentials(
    people: People, ilert: StandIn, sent: list[Any]
) -> None:
    people(12)
    ilert.add_fault("token", REFUSED, times=5)
    ilert.add_fault("token", Fault(status=401, body='{"code": "invalid_client"}'))
    ilert.add_fault("token", REFUSED, times=None)
    assert run(concurrency=1).stopped == "credentials"
    assert "account_revoked" not in [name for name, _ in sent]


def test_grants_that_have_ended_together_do_not_stop_every_run(
    people: People, ilert: StandIn
) -> None:
    for account in people(60)[:12]:
        ilert.revoke_app("acme", account.username)
    results = [run(concurrency=1) for _ in range(5)]
    assert "" in [result.stopped for result in results]
    assert ConnectedAccount.objects.filter(refreshed_at=None).count() == 12


def test_refusals_later_in_a_run_are_no_reason_to_stop(people: People, ilert: StandIn) -> None:
    people(25)
    ilert.add_fault("token", Fault())
    ilert.add_fault("token", REFUSED, times=24)
    result = run(concurrency=1)
    assert (result.stopped, result.refreshed, result.failed) == ("", 1, 24)


@pytest.mark.parametrize("spoil", NEVER_ASKED)
def test_an_account_that_ilert_is_not_asked_for_says_nothing_about_the_credentials(
    people: People, ilert: StandIn, settings: Any, spoil: Spoil
) -> None:
    bad, *good = people(14)
    ConnectedAccount.objects.filter(pk=bad.pk).update(**spoil(bad))
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    assert run(concurrency=1).stopped == "credentials"
    assert len(ilert.token_requests) == 10
    after = ConnectedAccount.objects.filter(pk__in=[account.pk for account in good])
    assert {account.status for account in after} == {Status.CONNECTED}


def test_what_single_requests_marked_comes_back_when_the_secret_is_right(
    people: People, ilert: StandIn, settings: Any, sent: list[Any]
) -> None:
    accounts = people(2)
    right = settings.ILERT_OAUTH_CLIENT_SECRET
    settings.ILERT_OAUTH_CLIENT_SECRET = "wrong"
    for account in accounts:
        with pytest.raises(IlertRejectedError):
            flows.refresh(account)
    settings.ILERT_OAUTH_CLIENT_SECRET = right
    assert run().failed == 2
    assert run(retry_reconnect_required=True) == flows.BulkResult(refreshed=2)
    assert {(row["status"], row["reason"]) for row in rows()} == {(Status.CONNECTED, "")}
    assert [name for name, _ in sent] == ["account_revoked"] * 2 + ["account_refreshed"] * 2


def test_a_refusal_that_cannot_be_written_does_not_keep_the_others_from_it(
    people: People, ilert: StandIn
) -> None:
    first, second, *_ = people(4)
    ilert.add_fault("token", REFUSED, times=2)

    def fail_for_first(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        if sql.startswith("UPDATE") and '"reason"' in sql.replace("`", '"') and first.pk in params:
            raise DatabaseError("no room")
        return execute(sql, params, *args)

    with connection.execute_wrapper(fail_for_first):
        result = run(concurrency=1)
    assert (result.refreshed, result.failed) == (2, 2)
    second.refresh_from_db()
    assert second.status == Status.RECONNECT_REQUIRED
    assert held_leases() == 0


# Beside other runs


@pytest.mark.parametrize("rotate", [False, True])
def test_any_number_of_runs_renew_each_account_once(
    people: People, ilert: StandIn, rotate: bool
) -> None:
    people(60)
    ilert.options.rotate, ilert.options.requests_per_minute = rotate, 0
    results = in_threads(4, lambda: run(concurrency=2))
    assert [result.failures for result in results] == [{}] * 4
    assert sum(result.refreshed for result in results) == 60
    assert len(asked(ilert)) == 60
    assert set(asked(ilert).values()) == {1}


def in_threads(count: int, work: Callable[[], flows.BulkResult]) -> list[flows.BulkResult]:
    results: list[flows.BulkResult] = []
    together = threading.Barrier(count, timeout=20)

    def work_together() -> None:
        try:
            together.wait()
            results.append(work())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work_together) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_a_batch_out_of_time_renews_each_account_once(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SECONDS", -1)
    people(6)
    assert run() == flows.BulkResult(refreshed=6)
    assert set(asked(ilert).values()) == {1}


def test_what_another_run_took_once_the_batch_was_out_of_time_is_left_to_it(
    people: People, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SECONDS", -1)
    first, second, third = people(3)

    def take_second(**kwargs: Any) -> None:
        ends = DatabaseTime() + 60_000
        row = ConnectedAccount.objects.filter(pk=second.pk)
        row.update(lease_id="another", lease_ends_ms=ends)

    account_refreshed.connect(take_second)
    try:
        assert run(concurrency=1) == flows.BulkResult(refreshed=2, skipped=1)
    finally:
        account_refreshed.disconnect(take_second)
    assert str(second.refresh_token) not in asked(ilert)


def test_an_account_that_changes_hands_during_its_request_keeps_what_is_stored(
    people: People, door: Door
) -> None:
    def disconnect(count: int) -> None:
        ConnectedAccount.objects.update(status=Status.DISCONNECTED, refresh_token_ciphertext="")
        connections.close_all()

    people(1)
    door.on_arrival = disconnect
    assert run() == flows.BulkResult(skipped=1)
    row = ConnectedAccount.objects.get()
    assert (row.status, row.refresh_token_ciphertext) == (Status.DISCONNECTED, "")


def test_an_account_costs_three_queries_at_the_most(people: People, ilert: StandIn) -> None:
    people(40)
    with CaptureQueriesContext(connection) as queries:
        assert run(concurrency=1).refreshed == 40
    assert len(queries) <= 3 * 40


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
    monkeypatch.setattr(batches, "SIZE", 2)
    accounts = people(4)
    late = [account.pk for account in accounts[2:]]
    ConnectedAccount.objects.filter(pk__in=late).update(refreshed_at=timezone.now())
    counts: list[int] = []
    run(concurrency=1, on_progress=lambda result: counts.append(result.done))
    assert counts[-1] == 4


def break_down(result: flows.BulkResult) -> None:
    raise RuntimeError("the bar broke")


def break_down_in_one_thread(result: flows.BulkResult) -> None:
    if threading.current_thread().name.endswith("_2"):
        raise RuntimeError("the bar broke")


@pytest.mark.parametrize("on_progress", [break_down, break_down_in_one_thread])
def test_progress_that_raises_ends_the_run_and_leaves_nothing_behind(
    people: People,
    door: Door,
    on_progress: Callable[[flows.BulkResult], None],
) -> None:
    people(40)
    together = threading.Barrier(3, timeout=20)
    door.on_arrival = lambda count: together.wait() if count <= 3 else time.sleep(0.05)
    with pytest.raises(RuntimeError, match="the bar broke"):
        run(concurrency=3, on_progress=on_progress)
    assert len(door.arrivals) < 20
    assert held_leases() == 0
    assert ConnectedAccount.objects.filter(refreshed_at=None).count() == 40 - len(door.arrivals)


def test_progress_that_raises_keeps_no_renewal_from_the_receivers(
    account: ConnectedAccount, ilert: StandIn, sent: list[Any]
) -> None:
    with pytest.raises(RuntimeError, match="the bar broke"):
        run(concurrency=1, on_progress=break_down)
    assert [name for name, _ in sent] == ["account_refreshed"]


# Stopping


def test_a_stopped_run_finishes_the_requests_under_way_and_writes_their_tokens(
    people: People, door: Door
) -> None:
    stop = threading.Event()
    together = threading.Barrier(3, action=stop.set, timeout=20)
    door.on_arrival = lambda count: together.wait()
    people(12)
    result = run(concurrency=3, stop=stop)
    assert result == flows.BulkResult(refreshed=3, stopped="interrupted")
    assert ConnectedAccount.objects.exclude(refreshed_at=None).count() == 3
    assert held_leases() == 0


def test_a_stopped_run_gives_back_what_waited_for_its_moment(people: People, door: Door) -> None:
    stop = threading.Event()
    door.on_arrival = lambda count: stop.set()
    people(6)
    result = run(concurrency=3, per_minute=1, stop=stop)
    # What was not asked for is nobody else's either: it is still due.
    assert result == flows.BulkResult(refreshed=1, stopped="interrupted")
    assert len(door.arrivals) == 1
    assert held_leases() == 0


def test_a_stop_ends_the_pause_after_a_rate_limit(
    account: ConnectedAccount, ilert: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    pause = Pace.pause

    def pause_and_stop(pace: Pace, seconds: float) -> None:
        pause(pace, seconds)
        threading.Timer(0.1, stop.set).start()

    monkeypatch.setattr(Pace, "pause", pause_and_stop)
    ilert.add_fault("token", limited(Retry_After="300"))
    result = run(stop=stop)
    assert result.stopped == "interrupted"
    assert result.seconds < 60
    assert held_leases() == 0
    account.refresh_from_db()
    assert account.status == Status.CONNECTED


def test_a_run_stopped_before_it_begins_reads_and_asks_for_nothing(
    account: ConnectedAccount, ilert: StandIn, django_assert_num_queries: Any
) -> None:
    stop = threading.Event()
    stop.set()
    with django_assert_num_queries(0):
        assert run(concurrency=1, stop=stop) == flows.BulkResult(stopped="interrupted")
    assert ilert.requests == []


def test_a_stop_spares_the_grants_whose_end_is_put_off(
    people: People, door: Door, sent: list[Any]
) -> None:
    stop = threading.Event()
    door.on_arrival = lambda count: stop.set() if count == 3 else None
    people(8)
    door.standin.add_fault("token", REFUSED, times=3)
    result = run(concurrency=1, stop=stop)
    assert (result.stopped, result.failed) == ("interrupted", 3)
    assert held_leases() == 0
    assert sent == []
    assert not ConnectedAccount.objects.exclude(status=Status.CONNECTED).exists()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_run_that_breaks_down_spares_the_grants_put_off(
    people: People, ilert: StandIn, concurrency: int
) -> None:
    people(5)
    ilert.add_fault("token", REFUSED, times=None)

    def break_down(result: flows.BulkResult) -> None:
        if result.failed >= 2:
            raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError):
        run(concurrency=concurrency, on_progress=break_down)
    assert {row["status"] for row in rows()} == {Status.CONNECTED}
    assert held_leases() == 0
