from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps

from django_ilert_oauth.models import ConnectedAccount, Reason
from ilert_standin import StandIn
from tests.conftest import AccountFactory


def delete_row(account: ConnectedAccount) -> None:
    account.delete()


def delete_queryset(account: ConnectedAccount) -> None:
    ConnectedAccount.objects.filter(pk=account.pk).delete()


def delete_user(account: ConnectedAccount) -> None:
    account.user.delete()


@pytest.mark.parametrize("delete", [delete_row, delete_queryset, delete_user])
def test_every_way_to_delete_an_account_ends_its_grant(
    make_account: AccountFactory,
    ilert: StandIn,
    sent: list[tuple[str, dict[str, Any]]],
    django_capture_on_commit_callbacks: Any,
    delete: Callable[[ConnectedAccount], None],
) -> None:
    account = make_account()
    with django_capture_on_commit_callbacks(execute=True):
        delete(account)
    assert not ConnectedAccount.objects.exists()
    assert ilert.live_refresh_tokens("acme", "grace") == 0
    assert [(name, facts["reason"]) for name, facts in sent] == [
        ("account_revoked", Reason.DELETED)
    ]


def test_the_app_is_known_by_its_label() -> None:
    config = apps.get_app_config("ilert_oauth")
    assert config.name == "django_ilert_oauth"
    assert config.get_model("ConnectedAccount") is ConnectedAccount
