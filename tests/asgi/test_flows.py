from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import ReconnectRequiredError
from django_ilert_oauth.flows import _async
from django_ilert_oauth.models import ConnectedAccount, Reason, Status
from ilert_standin import StandIn
from tests.conftest import AccountFactory
from tests.support import docs
from tests.support.other_callers import stored_tokens

aget = async_to_sync(flows.aget_access_token)
arefresh = async_to_sync(flows.arefresh)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(call: object) -> None:
        raise AssertionError("leaves the event loop")

    monkeypatch.setattr(_async, "sync_to_async", refuse)


@pytest.mark.usefixtures("no_threads")
def test_a_fresh_token_is_had_without_a_thread_or_a_query(
    account: ConnectedAccount, django_assert_num_queries: Callable[[int], Any]
) -> None:
    with django_assert_num_queries(0):
        token = asyncio.run(flows.aget_access_token(account))
    assert token == account.access_token


def test_an_expired_token_is_refreshed(expired_account: ConnectedAccount, ilert: StandIn) -> None:
    token = aget(expired_account)
    assert token == stored_tokens(expired_account)[0] == expired_account.access_token
    assert expired_account.is_fresh()
    assert len(ilert.token_requests) == 1


def test_the_margin_is_the_callers(account: ConnectedAccount, ilert: StandIn) -> None:
    before = account.access_token.reveal()
    assert aget(account, margin=timedelta(minutes=59)) == before
    assert aget(account, margin=timedelta(minutes=61)) != before
    assert len(ilert.token_requests) == 1


def test_what_a_transaction_of_the_caller_has_made_is_seen(
    make_account: AccountFactory, settings: Any
) -> None:
    with transaction.atomic():
        account = make_account(access_token_expires_at=None)
        assert aget(account) == account.access_token
        assert account.is_fresh()


def test_an_account_that_has_ended_says_so_and_shows_it(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    with pytest.raises(ReconnectRequiredError):
        aget(expired_account)
    assert expired_account.status == Status.RECONNECT_REQUIRED


def test_a_refresh_returns_the_same_account_with_new_tokens_and_keeps_ilerts_floor_unless_forced(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    before = account.access_token.reveal()
    assert arefresh(account) is arefresh(account) is account
    assert before != account.access_token == stored_tokens(account)[0]
    assert len(ilert.token_requests) == 1
    arefresh(account, force=True)
    assert len(ilert.token_requests) == 2


def test_a_check_stores_what_ilert_names(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(granted_scope="out of date")
    assert async_to_sync(flows.acheck)(account) is account
    assert ConnectedAccount.objects.get().granted_scope == "profile source:w"


def test_an_account_is_disconnected_for_the_reason_given(account: ConnectedAccount) -> None:
    async_to_sync(flows.adisconnect)(account, reason=Reason.ADMIN)
    row = ConnectedAccount.objects.get()
    assert (row.status, row.reason) == (Status.DISCONNECTED, Reason.ADMIN)


@pytest.mark.django_db(transaction=True)
def test_a_task_that_is_cancelled_loses_no_token(
    expired_account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.options.rotate = True
    ilert.options.latency = 0.3
    before = stored_tokens(expired_account)

    @async_to_sync
    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flows.aget_access_token(expired_account), 0.1)

    cancel()
    assert stored_tokens(expired_account) != before
    assert expired_account.access_token == stored_tokens(expired_account)[0]
    assert len(ilert.token_requests) == 1


@pytest.fixture
def recipe() -> dict[str, Any]:
    [block] = [b for b in docs.blocks("python", "docs/guides/call-ilert") if "IlertAuth(" in b]
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102
    return names


def test_the_guides_recipe_for_httpx_works_as_printed(
    recipe: dict[str, Any], make_account: AccountFactory, ilert: StandIn
) -> None:
    account = make_account(granted_scope="user", access_token_expires_at=None)
    assert async_to_sync(recipe["usernames"])(account)[:2] == ["grace", "ada"]
    assert len(ilert.token_requests) == 1
