from __future__ import annotations

import subprocess
import sys
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


def test_a_start_of_the_site_waits_for_no_other_package() -> None:
    code = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"])
import django
django.setup()
before = set(sys.modules)
settings.INSTALLED_APPS.append("django_ilert_oauth")
django.apps.apps.set_installed_apps(settings.INSTALLED_APPS)
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(tops - set(sys.stdlib_module_names)))
"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "['django', 'django_ilert_oauth']"
