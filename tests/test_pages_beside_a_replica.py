"""Pages after a connect read the database that was written to: a replica may lag behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from django_ilert_oauth.models import ConnectedAccount
from ilert_standin.browser import authorize

PAGES: dict[str, Callable[[Client, ConnectedAccount], Any]] = {
    "accounts": lambda browser, account: browser.get("/ilert/"),
    "connect": lambda browser, account: browser.get("/ilert/connect/", {"account": account.pk}),
    "reconnect": lambda browser, account: browser.post("/ilert/connect/", {"account": account.pk}),
    "choose": lambda browser, account: browser.get("/ilert/choose/"),
    "disconnect": lambda browser, account: browser.get(f"/ilert/{account.pk}/disconnect/"),
    "guarded": lambda browser, account: browser.get("/function/it/"),
}


class Lagging:
    """Reads of the app's tables that are left to a router fail."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        assert model._meta.app_label != "ilert_oauth", f"{model.__name__} is read from the replica"
        return None


@pytest.fixture(params=[None, "tests.support.team_accounts.accounts_for"])
def replica(settings: Any, request: pytest.FixtureRequest) -> None:
    settings.ILERT_OAUTH_ACCOUNTS_FOR = request.param
    settings.DATABASE_ROUTERS = [f"{__name__}.Lagging"]
    settings.ROOT_URLCONF = "tests.support.guarded_site"


def test_the_router_of_these_tests_is_asked(db: None, replica: None) -> None:
    with pytest.raises(AssertionError, match="ConnectedAccount is read"):
        ConnectedAccount.objects.first()


@pytest.mark.parametrize("page", PAGES)
def test_no_page_reads_a_replica(
    browser: Client, account: ConnectedAccount, replica: None, page: str
) -> None:
    assert PAGES[page](browser, account).status_code in (200, 302)


@pytest.mark.parametrize("outcome", ["first", "reload", "declined"])
def test_the_callback_reads_no_replica(
    browser: Client, account: ConnectedAccount, replica: None, outcome: str
) -> None:
    leave: Any = browser.post("/ilert/connect/", {"account": account.pk})
    callback = authorize(leave["Location"], allow=outcome != "declined")
    for _ in range(2 if outcome == "reload" else 1):
        response = browser.get(callback)
    assert (response["Location"] == "/ilert/") == (outcome != "declined")
