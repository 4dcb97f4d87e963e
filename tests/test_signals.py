from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.dispatch import Signal

from django_ilert_oauth import flows, signals
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import StandIn

Sent = list[tuple[str, dict[str, Any]]]


def test_the_signals_are_the_documented_ones() -> None:
    names = [name for name, value in vars(signals).items() if isinstance(value, Signal)]
    assert names == [
        "account_connected",
        "account_refreshed",
        "account_recovered",
        "account_refresh_failed",
        "account_revoked",
    ]


@pytest.mark.django_db(transaction=True)
def test_a_signal_waits_for_the_commit_and_what_is_rolled_back_is_not_told(
    account: ConnectedAccount, sent: Sent
) -> None:
    with transaction.atomic():
        flows.disconnect(account)
        transaction.set_rollback(True)
    assert sent == []
    account.refresh_from_db()
    with transaction.atomic():
        flows.disconnect(account)
        assert sent == []
    assert [name for name, _ in sent] == ["account_revoked"]


@pytest.mark.django_db(transaction=True)
def test_a_raising_receiver_is_logged_and_loses_nothing(
    account: ConnectedAccount, ilert: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[object] = []

    def fail(**kwargs: Any) -> None:
        raise RuntimeError("a receiver of the site")

    def listen(**kwargs: Any) -> None:
        told.append(kwargs["account"])

    for receiver in (fail, listen):
        signals.account_revoked.connect(receiver)
    flows.disconnect(account)
    for receiver in (fail, listen):
        signals.account_revoked.disconnect(receiver)
    assert told == [account]
    assert "a receiver of the site" in caplog.text
    assert ConnectedAccount.objects.get().status == Status.DISCONNECTED
    assert ilert.live_refresh_tokens("acme", "grace") == 0
