from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DatabaseError, OperationalError, connection, transaction
from django.test.utils import isolate_apps
from django.utils import timezone

from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.flows._lease import (
    NO_LEASE,
    STORING_SECONDS,
    read_snapshots,
    release,
    reload,
    take_lease,
)
from django_ilert_oauth.internal.db import DatabaseTime, update_row
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth.transport import clock
from tests.conftest import AccountFactory, People
from tests.support.other_callers import at_once, beside, copies, held, lapse_leases, stored

pytestmark = pytest.mark.django_db(transaction=True)


def lease_columns(account: ConnectedAccount) -> dict[str, Any]:
    return stored(account, *NO_LEASE)


def database_ms() -> int:
    row = ConnectedAccount.objects.annotate(now=DatabaseTime()).values_list("now", flat=True)
    return int(row[0])


# Looking


def test_a_look_brings_the_object_up_to_date(account: ConnectedAccount) -> None:
    stale = ConnectedAccount.objects.get()
    ConnectedAccount.objects.update(username="hopper", granted_scope="source", last_error="busy")
    reload(stale)
    assert (str(stale), stale.granted_scope, stale.last_error) == (
        "hopper @ acme",
        "source",
        "busy",
    )


def test_a_look_sees_the_lease_of_another_caller_and_the_time_of_the_database_which_goes_on(
    account: ConnectedAccount,
) -> None:
    assert not reload(account).is_leased
    held(account)
    snapshot = reload(account)
    assert snapshot.is_leased
    before = snapshot.now
    assert abs(before - timezone.now()) < timedelta(minutes=1)
    time.sleep(0.01)
    assert snapshot.now - before >= timedelta(seconds=0.01)


@pytest.mark.parametrize("change", ["deleted", "of another schema"])
def test_a_row_that_is_not_there_any_more_needs_a_new_connection(
    account: ConnectedAccount, change: str
) -> None:
    if change == "deleted":
        ConnectedAccount.objects.all()._raw_delete("default")
    else:
        account.uuid = uuid4()
    with pytest.raises(ReconnectRequiredError):
        reload(account)


def test_many_are_looked_at_in_the_order_asked_for_by_one_query(
    people: People, django_assert_num_queries: Any
) -> None:
    first, second, third = people(3)
    held(second)
    ConnectedAccount.objects.filter(pk=first.pk)._raw_delete("default")
    with django_assert_num_queries(1):
        snapshots = read_snapshots([third.pk, first.pk, second.pk])
    assert [(each.account, each.is_leased) for each in snapshots] == [
        (third, False),
        (second, True),
    ]


# Winning one


def test_of_many_callers_one_wins(account: ConnectedAccount) -> None:
    snapshots = [reload(each) for each in copies(account, 8)]
    won = [lease for lease in at_once(8, lambda number: take_lease(snapshots[number])) if lease]
    assert [getattr(lease, "id", lease) for lease in won] == [lease_columns(account)["lease_id"]]


def test_a_lease_that_has_not_lapsed_is_nobody_else_s(account: ConnectedAccount) -> None:
    snapshot = reload(account)
    held(account)
    assert take_lease(snapshot) is None
    assert take_lease(reload(account)) is None


def test_a_lapsed_lease_can_be_taken_and_is_another_one(account: ConnectedAccount) -> None:
    first = held(account)
    lapse_leases()
    assert held(account).id != first.id


@pytest.mark.parametrize(
    "changed",
    [
        {"access_token_ciphertext": "newer"},
        {"refresh_token_ciphertext": "newer"},
        {"status": Status.DISCONNECTED},
        {"uuid": uuid4()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_caller_that_knows_an_older_row_loses(
    account: ConnectedAccount, changed: dict[str, Any]
) -> None:
    snapshot = reload(account)
    ConnectedAccount.objects.update(**changed)
    assert take_lease(snapshot) is None
    assert lease_columns(account) == NO_LEASE


@isolate_apps("tests.support.uuid_users")
def test_a_model_of_the_site_with_a_table_of_its_own_leaves_the_lease_where_it_is(
    account: ConnectedAccount,
) -> None:
    class OwnAccount(ConnectedAccount):
        class Meta:
            app_label = "uuid_users"

    held(OwnAccount(connectedaccount_ptr_id=account.pk, uuid=account.uuid))
    assert take_lease(reload(account)) is None


def test_a_lease_outlasts_a_request_by_the_clock_of_the_database(
    account: ConnectedAccount, settings: Any
) -> None:
    settings.ILERT_OAUTH_TIMEOUT = (2, 10)
    snapshot, before = reload(account), (database_ms(), clock())
    lease = take_lease(snapshot)
    after = (database_ms(), clock())
    assert lease is not None
    assert before[1] + 12 <= lease.request_by <= after[1] + 12
    assert lease.ends - lease.request_by == STORING_SECONDS
    length = int(1000 * (12 + STORING_SECONDS))
    assert before[0] + length <= lease_columns(account)["lease_ends_ms"] <= after[0] + length


# Giving it back


def test_a_lease_is_given_back_by_its_holder_only(account: ConnectedAccount) -> None:
    late = held(account)
    lapse_leases()
    holder = held(account)
    release(late)
    assert lease_columns(account)["lease_id"] == holder.id
    release(holder)
    assert lease_columns(account) == NO_LEASE


class Refusing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, execute: Any, sql: str, *args: Any) -> Any:
        raise self._error


def test_a_lease_that_cannot_be_given_back_hides_no_other_error(account: ConnectedAccount) -> None:
    lease = held(account)
    with connection.execute_wrapper(Refusing(DatabaseError("the database is away"))):
        release(lease)


# The one conditional UPDATE


def rename(account: ConnectedAccount, **conditions: Any) -> bool:
    return update_row(account, {"display_name": "new"}, conditions, using="default")


@pytest.mark.parametrize(
    ("conditions", "is_written"),
    [
        ({}, True),
        ({"username": "grace", "lease_ends_ms__lte": 0}, True),
        ({"username": "ada"}, False),
        ({"username": "grace", "lease_ends_ms__lte": -1}, False),
    ],
)
def test_a_row_is_written_where_it_meets_the_conditions(
    account: ConnectedAccount,
    make_account: AccountFactory,
    conditions: dict[str, Any],
    is_written: bool,
) -> None:
    other = make_account(username="hopper")
    assert rename(account, **conditions) is is_written
    assert stored(account, "display_name") == {"display_name": "new" if is_written else ""}
    assert stored(other, "display_name") == {"display_name": ""}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks no rows")
def test_a_row_that_another_transaction_has_locked_is_not_waited_for(
    account: ConnectedAccount, make_account: AccountFactory
) -> None:
    other = make_account(username="hopper")
    with transaction.atomic():
        ConnectedAccount.objects.select_for_update().get(pk=account.pk)
        started = time.monotonic()
        assert not beside(lambda: rename(account))
        assert beside(lambda: rename(other))
        assert time.monotonic() - started < 1


class DriverError(Exception):
    def __init__(self, name: str, state: str) -> None:
        setattr(self, name, state)


def contention(*args: Any, cause: Exception | None = None) -> OperationalError:
    error = OperationalError(*args)
    error.__cause__ = cause
    return error


CONTENTION = {
    "MariaDB's": contention(1205, "Lock wait timeout exceeded"),
    "psycopg's": contention("canceled", cause=DriverError("sqlstate", "55P03")),
    "psycopg2's": contention("canceled", cause=DriverError("pgcode", "40001")),
}


@pytest.mark.parametrize("error", CONTENTION.values(), ids=CONTENTION)
def test_another_transaction_that_was_faster_is_no_error_outside_of_one_s_own(
    account: ConnectedAccount, error: OperationalError
) -> None:
    with connection.execute_wrapper(Refusing(error)):
        assert not rename(account)
    with (
        pytest.raises(OperationalError),
        transaction.atomic(),
        connection.execute_wrapper(Refusing(error)),
    ):
        rename(account)


def test_any_other_error_is_one(account: ConnectedAccount) -> None:
    refusing = Refusing(OperationalError(2006, "Server has gone away"))
    with connection.execute_wrapper(refusing), pytest.raises(OperationalError):
        rename(account)


# The clock


@pytest.mark.parametrize("zone", ["+00:00", "+09:00"])
def test_the_time_of_the_database_is_milliseconds_since_the_epoch_in_any_time_zone(
    account: ConnectedAccount, zone: str
) -> None:
    commands = {"postgresql": "SET TIME ZONE %s", "mysql": "SET time_zone = %s"}
    with connection.cursor() as cursor:
        if connection.vendor in commands:
            cursor.execute(commands[connection.vendor], [zone])
    try:
        assert abs(database_ms() - timezone.now().timestamp() * 1000) < 60_000
    finally:
        connection.close()


def test_the_time_of_the_database_goes_on_inside_a_transaction(account: ConnectedAccount) -> None:
    with transaction.atomic():
        before = database_ms()
        while database_ms() <= before:
            pass
