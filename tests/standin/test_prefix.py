"""All of it below a path, as a self-hosted ilert may be."""

import pytest

from ilert_standin import StandIn, browser
from ilert_standin.faults import parse_fault
from tests.support.app_client import OAUTH, AppClient, query_of

PREFIX = "/some/ilert"


@pytest.fixture(autouse=True)
def below(standin: StandIn, client: AppClient) -> None:
    standin.options.url_prefix = PREFIX
    client.base_url += PREFIX


def test_a_user_connects_and_the_api_responds(client: AppClient) -> None:
    tokens = client.connect()
    assert client.api("GET", "users/current", tokens["access_token"]).status_code == 200
    assert client.refresh(tokens["refresh_token"]).status_code == 200


def test_a_tenants_own_address_is_below_it_too(client: AppClient) -> None:
    url = client.authorize_url("/t/globex")
    assert "code" in query_of(browser.authorize(url, tenant="globex", username="linus"))


def test_a_user_revokes_the_app(standin: StandIn, client: AppClient) -> None:
    client.connect()
    browser.revoke(client.base_url, tenant="acme", username="grace")
    assert standin.live_refresh_tokens("acme", "grace") == 0


def test_the_link_of_the_first_page_stays_below_it(client: AppClient) -> None:
    assert 'href="manage-applications"' in client.http.get(f"{client.base_url}/").text


def test_faults_and_limits_are_the_same(standin: StandIn, client: AppClient) -> None:
    standin.add_fault(*parse_fault("token:503"))
    assert client.refresh("unknown").status_code == 503
    standin.options.requests_per_minute = 1
    assert client.refresh("unknown").status_code == 429


def test_requests_are_recorded_as_they_were_made(standin: StandIn, client: AppClient) -> None:
    client.refresh("unknown")
    assert [made.path for made in standin.token_requests] == [f"{PREFIX}{OAUTH}/token"]


@pytest.mark.parametrize("elsewhere", ["", "/some", "/some/other", f"{PREFIX}s", "/x"])
def test_elsewhere_there_is_nothing_and_what_came_is_recorded(
    standin: StandIn, client: AppClient, elsewhere: str
) -> None:
    client.base_url = client.base_url.removesuffix(PREFIX) + elsewhere
    token = str(standin.issue_tokens("acme", "grace")["access_token"])
    assert client.api("GET", "users/current", token).status_code == 404
    (made,) = standin.requests
    assert (made.path, made.status) == (f"{elsewhere}/api/users/current", 404)
    assert standin.token_requests == []
