"""Every run makes progress, whatever ilert says about some of the accounts."""

from __future__ import annotations

import pytest

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn

from .conftest import MakeDue, lost, refreshed

pytestmark = pytest.mark.django_db(transaction=True)


def test_live_accounts_behind_many_that_ended_together_are_refreshed_in_one_run(
    make_due: MakeDue, ilert: StandIn
) -> None:
    dead, live = make_due(100), make_due(60, first=100)
    for account in dead:
        ilert.revoke_app("acme", account.username)
    result = flows.refresh_many(ConnectedAccount.objects.all(), per_minute=0, concurrency=8)
    assert (result.refreshed, result.failed, result.stopped) == (60, 100, "")
    assert refreshed(live) == 60
    ended = ConnectedAccount.objects.filter(status=Status.RECONNECT_REQUIRED).order_by("pk")
    assert list(ended) == lost(ilert) == dead


def test_no_page_waits_for_an_account_that_a_slow_run_will_ask_for_later(
    make_due: MakeDue, ilert: StandIn
) -> None:
    accounts = make_due(50)

    def look(_result: flows.BulkResult) -> None:
        if accounts[-1].refreshed_at is None:
            flows.refresh(accounts[-1])

    result = flows.refresh_many(
        ConnectedAccount.objects.all(), per_minute=6000, limit=5, on_progress=look
    )
    assert result.refreshed == 5
    assert accounts[-1].refreshed_at is not None
    assert lost(ilert) == []
