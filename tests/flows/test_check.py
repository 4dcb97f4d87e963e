from __future__ import annotations

import pytest

from django_ilert_oauth import flows
from django_ilert_oauth.exceptions import IlertRejectedError, ReconnectRequiredError
from django_ilert_oauth.models import ConnectedAccount, Status
from ilert_standin import Fault, StandIn

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_check_stores_the_scope_that_ilert_names(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.update(granted_scope="wildcard:d")
    flows.check(account)
    assert account.granted_scope == "profile source:w"
    assert ConnectedAccount.objects.get().granted_scope == "profile source:w"


def test_a_check_asks_with_the_access_token_only(account: ConnectedAccount, ilert: StandIn) -> None:
    flows.check(account)
    [request] = ilert.requests
    assert request.path.endswith("/token_info")
    assert request.form == {"token": str(account.access_token)}


def test_an_inactive_token_is_renewed(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.expire_access_tokens()
    flows.check(account)
    assert len(ilert.token_requests) == 1
    assert account.status == Status.CONNECTED


def test_a_check_notices_a_revoked_grant_once_the_token_is_dead(
    account: ConnectedAccount, ilert: StandIn
) -> None:
    ilert.revoke_app("acme", "grace")
    flows.check(account)
    ilert.expire_access_tokens()
    with pytest.raises(ReconnectRequiredError):
        flows.check(account)
    assert ConnectedAccount.objects.get().needs_reconnect


def test_a_token_that_stays_inactive_is_told(account: ConnectedAccount, ilert: StandIn) -> None:
    ilert.add_fault("token_info", Fault(status=200, body='{"active": false}'), times=2)
    with pytest.raises(IlertRejectedError) as caught:
        flows.check(account)
    assert caught.value.code == "inactive_token"


def test_an_answer_without_scope_changes_nothing(account: ConnectedAccount, ilert: StandIn) -> None:
    body = '{"active": true, "tenant_id": "acme", "username": "grace"}'
    ilert.add_fault("token_info", Fault(status=200, body=body))
    flows.check(account)
    assert ConnectedAccount.objects.get().granted_scope == "profile source:w"
