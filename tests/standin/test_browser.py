import pytest
import requests

from ilert_standin import browser
from tests.support.app_client import REDIRECT_URI, AppClient, query_of


def test_a_session_can_be_walked_twice_as_different_users(client: AppClient) -> None:
    for tenant, username in (("acme", "grace"), ("globex", "linus")):
        callback_url = browser.authorize(
            client.authorize_url(), tenant=tenant, username=username, session=client.http
        )
        tokens = client.exchange(query_of(callback_url)["code"]).json()
        info = client.post("token_info", {"token": tokens["access_token"]}).json()
        assert (info["tenant_id"], info["username"]) == (tenant, username)


def test_an_error_sent_back_at_once_is_returned(client: AppClient) -> None:
    callback_url = browser.authorize(client.authorize_url(scope=None))
    assert callback_url.startswith(REDIRECT_URI)
    assert query_of(callback_url)["error"] == "invalid_scope"


def test_an_error_page_raises(client: AppClient) -> None:
    with pytest.raises(requests.HTTPError):
        browser.authorize(client.authorize_url(redirect_uri="https://elsewhere.example/"))


def test_a_user_who_is_not_on_the_page_raises(client: AppClient) -> None:
    with pytest.raises(LookupError, match="account=acme/linus"):
        browser.authorize(client.authorize_url(), tenant="acme", username="linus")


def test_revoking_where_nothing_is_connected_raises(client: AppClient) -> None:
    with pytest.raises(LookupError, match="revoke=yes"):
        browser.revoke(client.base_url, tenant="acme", username="grace")
