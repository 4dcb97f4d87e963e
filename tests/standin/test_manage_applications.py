from ilert_standin import StandIn, browser
from tests.support.app_client import AppClient, oauth_error


def test_a_user_revokes_the_app(standin: StandIn, client: AppClient) -> None:
    tokens = client.connect()
    client.connect()
    browser.revoke(client.base_url, tenant="acme", username="grace")
    assert standin.live_refresh_tokens("acme", "grace") == 0
    assert oauth_error(client.refresh(tokens["refresh_token"])) == (401, "invalid_grant")
    assert client.api("GET", "users/current", tokens["access_token"]).status_code == 200


def test_revoking_touches_nobody_else(standin: StandIn, client: AppClient) -> None:
    for tenant, username in (("acme", "grace"), ("acme", "ada"), ("globex", "grace")):
        client.connect(tenant, username)
    browser.revoke(client.base_url, tenant="acme", username="grace")
    assert standin.live_refresh_tokens("acme", "ada") == 1
    assert standin.live_refresh_tokens("globex", "grace") == 1


def test_the_page_is_for_somebody_logged_in(client: AppClient) -> None:
    url = f"{client.base_url}/manage-applications"
    assert "Log in" in client.http.get(url).text
    assert "Log in" in client.http.post(url, data={"revoke": "yes"}).text


def test_the_page_tells_what_the_app_may_use(client: AppClient) -> None:
    client.connect(scope="profile source:w")
    client.connect(scope="profile team")
    url = f"{client.base_url}/manage-applications"
    page = client.http.post(url, data={"account": "acme/grace"}).text
    assert "connected 2 times, may use profile source:w team" in page
    page = client.http.post(url, data={"revoke": "yes"}).text
    assert "No application." in page


def test_a_tenant_has_a_page_of_its_own(client: AppClient) -> None:
    page = client.http.get(f"{client.base_url}/t/globex/manage-applications").text
    assert 'value="globex/linus"' in page
    assert "acme" not in page
