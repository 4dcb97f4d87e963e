from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import DataError, connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_ilert_oauth.flows._bulk import account_queue
from django_ilert_oauth.flows._bulk.account_queue import AccountQueue
from django_ilert_oauth.models import ConnectedAccount
from tests.conftest import People
from tests.support.live_accounts import counting_alive

pytestmark = pytest.mark.django_db


DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_queue, "PAGE", 2)


def rows() -> Any:
    return ConnectedAccount.objects.all()


def drain(queue: AccountQueue) -> Iterator[ConnectedAccount]:
    while look := queue.next():
        yield look.account


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_each_account_comes_once_across_pages(people: People, count: int) -> None:
    accounts = people(count)
    assert list(drain(AccountQueue(rows().order_by("-pk")))) == accounts


def test_what_failed_before_comes_last_and_longest_ago_first(people: People) -> None:
    just_now, longer_ago, good, _ = accounts = people(4)
    now = timezone.now()
    for account, minutes in [(just_now, 1), (longer_ago, 9)]:
        failed = rows().filter(pk=account.pk)
        failed.update(last_error="timeout", last_error_at=now - timedelta(minutes=minutes))
    assert list(drain(AccountQueue(rows()))) == [good, accounts[3], longer_ago, just_now]


def test_what_is_put_last_comes_once_more_after_all_others(people: People) -> None:
    first, second, third = people(3)
    queue = AccountQueue(rows())
    look = queue.next()
    assert look is not None
    queue.put_last(look.account)
    assert list(drain(queue)) == [second, third, first]


def test_rows_are_read_as_they_are_when_their_turn_comes(people: People) -> None:
    people(3)
    queue = AccountQueue(rows())
    queue.next()
    rows().update(granted_scope="since then")
    assert [each.granted_scope for each in drain(queue)][1:] == ["since then"]


def test_what_was_deleted_before_its_turn_is_counted(people: People) -> None:
    *_, third, fourth = people(4)
    queue = AccountQueue(rows())
    queue.next()
    rows().filter(pk=third.pk)._raw_delete("default")
    assert list(drain(queue))[1:] == [fourth]
    assert queue.deleted == 1


def test_no_more_than_a_page_is_in_memory(people: People) -> None:
    people(9)
    with counting_alive() as counts, CaptureQueriesContext(connection) as queries:
        for _ in drain(AccountQueue(rows())):
            pass
    assert len(counts) == 9
    # The one that was in hand while the next page was read is the third.
    assert max(counts) <= 3
    assert len(queries) == 1 + 5


@pytest.mark.django_db(transaction=True)
def test_a_new_connection_that_sees_other_accounts_under_the_keys_ends_the_queue(
    people: People,
) -> None:
    accounts = people(5)
    queue = AccountQueue(rows())
    for account in accounts:
        rows().filter(pk=account.pk).update(uuid=uuid4())
    connection.close()
    with pytest.raises(DataError, match="same accounts"):
        list(drain(queue))


@pytest.mark.django_db(transaction=True)
def test_accounts_deleted_while_the_connection_is_replaced_do_not_end_the_queue(
    people: People,
) -> None:
    first, *others = people(5)
    queue = AccountQueue(rows())
    for account in others:
        rows().filter(pk=account.pk)._raw_delete("default")
    connection.close()
    assert list(drain(queue)) == [first]


def test_what_expires_first_goes_first_and_an_unknown_expiry_before_all(people: People) -> None:
    late, unknown, soon = people(3)
    rows().filter(pk=late.pk).update(access_token_expires_at=F("access_token_expires_at") + DAY)
    rows().filter(pk=unknown.pk).update(access_token_expires_at=None)
    assert list(drain(AccountQueue(rows()))) == [unknown, soon, late]
