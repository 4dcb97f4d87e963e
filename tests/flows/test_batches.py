from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth.flows import batches
from django_ilert_oauth.flows.batches import Batches, Leased
from django_ilert_oauth.flows.lease import NO_LEASE, lease_seconds
from django_ilert_oauth.models import ConnectedAccount, DatabaseTime, Status
from tests.alive import counting_alive
from tests.conftest import People

pytestmark = pytest.mark.django_db

ANOTHER_LEASE = {"lease_id": "another", "lease_ends_ms": DatabaseTime() + 3_600_000}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SIZE", 2)


def batches_of(queryset: Any = None, **options: Any) -> Batches:
    everyone = ConnectedAccount.objects.all() if queryset is None else queryset
    given = {"force": False, "retry_reconnect_required": False, "limit": None, **options}
    return Batches(everyone, **given)


def drain(found: Batches) -> list[Leased]:
    return list(iter(found.next, None))


def pks(leased: list[Leased]) -> list[int]:
    return [one.account.pk for one in leased]


def leased_pks() -> list[int]:
    rows = ConnectedAccount.objects.exclude(lease_id="").order_by("pk")
    return list(rows.values_list("pk", flat=True))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_each_account_comes_once_in_the_order_of_the_keys(people: People, count: int) -> None:
    accounts = people(count)
    backwards = ConnectedAccount.objects.order_by("-pk")
    assert pks(drain(batches_of(backwards))) == [account.pk for account in accounts]


@pytest.mark.usefixtures("small")
def test_no_more_than_a_batch_is_leased_ahead(people: People) -> None:
    first, second, _third = people(3)
    batches_of().next()
    assert leased_pks() == [first.pk, second.pk]


@pytest.mark.usefixtures("small")
def test_what_is_leased_and_not_begun_is_given_back(people: People) -> None:
    first, _second, _third = people(3)
    found = batches_of()
    found.next()
    found.give_back_rest()
    assert leased_pks() == [first.pk]


def test_a_lease_outlasts_the_batch_and_one_request(people: People) -> None:
    people(1)
    leased = batches_of().next()
    assert leased is not None
    assert leased.good_until - time.monotonic() <= batches.SECONDS
    (left,) = ConnectedAccount.objects.values_list(F("lease_ends_ms") - DatabaseTime(), flat=True)
    assert left / 1000 == pytest.approx(batches.SECONDS + lease_seconds(), abs=5)


def test_what_another_caller_is_refreshing_is_skipped(people: People) -> None:
    mine, others = people(2)
    ConnectedAccount.objects.filter(pk=others.pk).update(**ANOTHER_LEASE)
    found = batches_of()
    assert pks(drain(found)) == [mine.pk]
    assert found.skipped == 1


def test_what_a_dead_caller_held_is_taken_over(people: People) -> None:
    (account,) = people(1)
    ConnectedAccount.objects.update(lease_id="dead", lease_ends_ms=DatabaseTime() - 1)
    assert pks(drain(batches_of())) == [account.pk]


@pytest.mark.parametrize(("force", "count"), [(False, 1), (True, 2)])
def test_what_was_renewed_a_moment_ago_is_skipped_unless_forced(
    people: People, force: bool, count: int
) -> None:
    early, _late = people(2)
    minutes = timedelta(minutes=4)
    ConnectedAccount.objects.filter(pk=early.pk).update(refreshed_at=timezone.now() - minutes)
    found = batches_of(force=force)
    assert len(drain(found)) == count
    assert found.skipped == 2 - count


def test_what_is_due_no_longer_when_it_is_leased_drops_out(people: People) -> None:
    first, second = people(2, access_token_expires_at=timezone.now() - timedelta(minutes=1))

    def renew_second(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and "lease_id" in sql:
            in_an_hour = timezone.now() + timedelta(hours=1)
            row = ConnectedAccount.objects.filter(pk=second.pk)
            row.update(access_token_expires_at=in_an_hour)
        return execute(sql, *args)

    found = batches_of(ConnectedAccount.objects.expiring(within=timedelta(0)))
    with connection.execute_wrapper(renew_second):
        assert pks(drain(found)) == [first.pk]
    assert found.skipped == 1


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"status": Status.DISCONNECTED}, "invalid_grant"),
        ({"status": Status.RECONNECT_REQUIRED}, "invalid_grant"),
        ({"api_url": "https://other.invalid"}, "endpoint_mismatch"),
    ],
)
def test_what_cannot_be_asked_for_is_told_with_its_code(
    people: People, columns: dict[str, Any], code: str
) -> None:
    bad, good = people(2)
    ConnectedAccount.objects.filter(pk=bad.pk).update(**columns)
    found = batches_of()
    assert pks(drain(found)) == [good.pk]
    assert (found.unfit, found.skipped) == ({bad.pk: code}, 0)


@pytest.mark.parametrize(
    ("status", "count"),
    [(Status.CONNECTED, 1), (Status.RECONNECT_REQUIRED, 1), (Status.DISCONNECTED, 0)],
)
def test_a_retry_takes_refused_grants_and_never_ended_ones(
    people: People, status: Status, count: int
) -> None:
    people(1, status=status)
    assert len(drain(batches_of(retry_reconnect_required=True))) == count


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_a_limit_holds_across_batches(people: People, limit: int) -> None:
    people(6)
    assert len(drain(batches_of(limit=limit))) == limit
    assert len(leased_pks()) == limit


@pytest.mark.usefixtures("small")
def test_what_is_skipped_or_unfit_does_not_count_to_the_limit(people: People) -> None:
    held, foreign, *free = people(5)
    ConnectedAccount.objects.filter(pk=held.pk).update(**ANOTHER_LEASE)
    ConnectedAccount.objects.filter(pk=foreign.pk).update(api_url="https://other.invalid")
    assert pks(drain(batches_of(limit=2))) == [account.pk for account in free[:2]]


def test_a_lease_that_is_young_enough_holds_without_a_query(
    people: People, django_assert_num_queries: Any
) -> None:
    people(1)
    leased = batches_of().next()
    assert leased is not None
    with django_assert_num_queries(0):
        assert leased.holds()


def out_of_time(people: People, monkeypatch: pytest.MonkeyPatch) -> Leased:
    monkeypatch.setattr(batches, "SECONDS", -1)
    people(1)
    leased = batches_of().next()
    assert leased is not None
    return leased


def test_a_batch_out_of_time_is_leased_again_one_by_one(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = out_of_time(people, monkeypatch)
    before = leased.lease_id
    assert leased.holds()
    assert leased.lease_id not in ("", before)
    left = F("lease_ends_ms") - DatabaseTime()
    stored_id, milliseconds = ConnectedAccount.objects.values_list("lease_id", left).get()
    assert stored_id == leased.lease_id
    assert milliseconds / 1000 == pytest.approx(lease_seconds(), abs=5)


@pytest.mark.parametrize(
    "change",
    [
        ANOTHER_LEASE,
        {**NO_LEASE, "access_token_ciphertext": "renewed"},
        {**NO_LEASE, "refresh_token_ciphertext": "rotated"},
        {**NO_LEASE, "status": Status.DISCONNECTED},
    ],
)
def test_what_another_caller_took_or_changed_by_then_is_left_to_it(
    people: People, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    leased = out_of_time(people, monkeypatch)
    ConnectedAccount.objects.update(**change)
    before = ConnectedAccount.objects.values().get()
    assert not leased.holds()
    assert ConnectedAccount.objects.values().get() == before


def test_giving_back_leaves_a_lease_of_another_alone(people: People) -> None:
    people(1)
    found = batches_of()
    leased = found.next()
    assert leased is not None
    ConnectedAccount.objects.update(**ANOTHER_LEASE)
    leased.give_back()
    assert ConnectedAccount.objects.values_list("lease_id", flat=True).get() == "another"


def test_a_batch_costs_two_queries(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SIZE", 4)
    people(8)
    with CaptureQueriesContext(connection) as queries:
        drain(batches_of())
    assert len(queries) == 2 * 2 + 1


@pytest.mark.usefixtures("small")
def test_no_more_than_a_batch_is_in_memory(people: People) -> None:
    people(9)
    found = batches_of()
    with counting_alive() as counts:
        while found.next():
            pass
    assert len(counts) == 9
    # The one that was in hand while the next batch was read is the third.
    assert max(counts) <= 3
