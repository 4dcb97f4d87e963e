"""What ilert has given is stored, although the database fails in that very moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DataError, InterfaceError, InternalError, OperationalError, connection

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.flows import _storing
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth import transport
from ilert_standin import StandIn
from tests.support.other_callers import Acting, beside

from .conftest import MakeDue, lost

pytestmark = pytest.mark.django_db(transaction=True)

#: As drivers name them.
ERRORS = [OperationalError, InternalError, InterfaceError]


@contextmanager
def failing(
    error: type[Exception], times: int, on_failure: Callable[[], Any] = lambda: None
) -> Iterator[list[str]]:
    """Every statement that writes tokens fails so often."""
    failed: list[str] = []

    def run(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if "UPDATE" in sql and "refreshed_at" in sql and len(failed) < times:
            failed.append(sql)
            on_failure()
            raise error("the database is away")
        return execute(sql, *args)

    with connection.execute_wrapper(run):
        yield failed


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_storing, "PAUSE", 0.01)


@pytest.mark.parametrize("error", ERRORS)
def test_a_refresh_is_stored_once_the_database_is_back(
    make_due: MakeDue, ilert: StandIn, error: type[Exception]
) -> None:
    [account] = make_due(1)
    with failing(error, 5) as failed:
        flows.refresh(account)
    assert len(failed) == 5
    assert lost(ilert) == []


@pytest.mark.parametrize("error", ERRORS)
def test_a_run_stores_everything_once_the_database_is_back(
    make_due: MakeDue, ilert: StandIn, error: type[Exception]
) -> None:
    make_due(30)
    with failing(error, 50):
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=8, per_minute=0)
    assert (result.refreshed, result.stopped) == (30, "")
    assert lost(ilert) == []


def test_while_nothing_can_be_stored_nothing_is_asked_for(
    make_due: MakeDue, ilert: StandIn
) -> None:
    make_due(30)
    asked: list[int] = []
    with failing(OperationalError, 40, lambda: asked.append(len(ilert.token_requests))):
        flows.refresh_many(ConnectedAccount.objects.all(), concurrency=4, per_minute=0)
    assert (len(asked), asked[-1]) == (40, 4)
    assert lost(ilert) == []


@pytest.mark.usefixtures("impatient")
def test_a_run_that_cannot_store_ends_and_says_so(make_due: MakeDue, ilert: StandIn) -> None:
    make_due(10)
    with failing(OperationalError, 10_000):
        result = flows.refresh_many(ConnectedAccount.objects.all(), concurrency=2, per_minute=0)
    assert result.stopped == "database"
    assert set(result.failures.values()) == {"not_stored"}
    assert len(ilert.token_requests) <= 2


def test_another_thread_asks_for_nothing_until_one_store_has_worked(
    make_due: MakeDue, ilert: StandIn
) -> None:
    first, second = make_due(2)
    codes: list[str] = []

    def refresh_second() -> None:
        if len(failed) != 2:
            return
        with pytest.raises(IlertUnavailableError) as raised:
            beside(lambda: flows.refresh(second))
        codes.append(raised.value.code)
        assert len(ilert.token_requests) == 1

    with failing(OperationalError, 3, refresh_second) as failed:
        flows.refresh(first)
    flows.refresh(second)
    assert codes == ["not_stored"]
    assert lost(ilert) == []


def test_a_data_error_is_not_tried_again(make_due: MakeDue, ilert: StandIn) -> None:
    [account] = make_due(1)
    with failing(DataError, 10) as failed, pytest.raises(DataError):
        flows.refresh(account)
    assert len(failed) == 1


def test_tokens_that_come_after_the_lease_has_lapsed_are_stored_if_nobody_was_faster(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    [account] = make_due(1)

    def lapse() -> None:
        ConnectedAccount.objects.update(lease_ends_ms=0, lease_id="")

    transport.adapters[settings.ILERT_OAUTH_API_URL] = Acting(after=lapse)
    try:
        flows.refresh(account)
    finally:
        transport.adapters.clear()
    assert lost(ilert) == []


def test_tokens_that_come_after_the_keys_were_rotated_are_stored(
    make_due: MakeDue, ilert: StandIn, settings: Any
) -> None:
    [account] = make_due(1)

    def rotate() -> None:
        ConnectedAccount.objects.update(lease_ends_ms=0, lease_id="")
        new = "cGFzc3BocmFzZS1mb3ItdGVzdHMtMzItYnl0ZXMtLSE="
        settings.ILERT_OAUTH_ENCRYPTION_KEYS = [new, *settings.ILERT_OAUTH_ENCRYPTION_KEYS]
        assert flows.rotate_keys().rotated == 1

    transport.adapters[settings.ILERT_OAUTH_API_URL] = Acting(after=rotate)
    try:
        flows.refresh(account)
    finally:
        transport.adapters.clear()
    assert lost(ilert) == []
