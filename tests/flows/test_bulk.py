from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection

from django_ilert_oauth import flows
from django_ilert_oauth.flows import bulk
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn
from tests.conftest import AccountFactory

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_account_is_renewed_across_pages(
    make_account: AccountFactory, monkeypatch: pytest.MonkeyPatch, ilert: StandIn
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 2)
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
        if sql.startswith("UPDATE") and first.pk in params:
            raise DatabaseError(f"no room for {params}")
        return execute(sql, params, *args)

    with connection.execute_wrapper(refuse_first):
        result = flows.refresh_many(ConnectedAccount.objects.all())
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
