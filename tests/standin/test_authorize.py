import pytest

from ilert_standin import StandIn, browser
from tests.support.app_client import REDIRECT_URI, AppClient, query_of


@pytest.mark.parametrize("state", ["ü%26=+&\"'<>/?#;,", None])
def test_a_user_logs_in_allows_and_comes_back_with_a_code_and_the_state_that_was_sent(
    client: AppClient, state: str | None
) -> None:
    callback_url = browser.authorize(client.authorize_url(state=state))
    assert callback_url.startswith(f"{REDIRECT_URI}?")
    found = query_of(callback_url)
    assert (bool(found.pop("code")), found) == (True, {"state": state} if state else {})


def test_a_denial_comes_back_as_access_denied(client: AppClient) -> None:
    query = query_of(browser.authorize(client.authorize_url(), allow=False))
    assert query.keys() == {"error", "error_description", "state"}
    assert query["error"] == "access_denied"


def test_the_login_page_offers_every_tenant_and_user(client: AppClient) -> None:
    page = client.open_authorize().text
    for account in ("acme/grace", "acme/ada", "globex/linus", "globex/grace"):
        assert f'value="{account}"' in page


def test_the_consent_page_reads_the_scopes_out_as_ilert_does(client: AppClient) -> None:
    scope = "profile source:w team:r alert:d offline_access wildcard brand_new:w"
    url = client.authorize_url(scope=scope)
    page = client.http.post(url, data={"account": "acme/grace"}).text
    for line in (
        "See your profile in your name",
        "See, Create, Edit Alert sources in your name",
        "See Teams in your name",
        "See, Create, Edit, Delete Alerts in your name",
        "Stay connected while you are away",
        "See all resources in your name",
        "See, Create, Edit Brand new in your name",
    ):
        assert f"<li>{line}</li>" in page


def test_somebody_logged_in_goes_straight_to_consent_and_can_use_another_account(
    client: AppClient,
) -> None:
    client.http.post(client.authorize_url(), data={"account": "acme/ada"})
    page = client.open_authorize().text
    assert "Logged in as Ada Demo (ada at acme)." in page
    assert 'value="allow"' in page
    page = client.http.post(client.authorize_url(), data={"log_out": "yes"}).text
    assert 'value="globex/linus"' in page


def test_consent_shown_to_one_user_is_not_given_for_another(client: AppClient) -> None:
    client.http.post(client.authorize_url(), data={"account": "acme/ada"})
    form = {"decision": "allow", "shown_to": "acme/grace"}
    response = client.http.post(client.authorize_url(), data=form, allow_redirects=False)
    assert response.status_code == 200
    assert "Logged in as Ada Demo" in response.text


def test_a_tenants_own_address_offers_only_its_users_and_gives_codes_too(client: AppClient) -> None:
    page = client.open_authorize("/t/globex").text
    assert 'value="globex/linus"' in page
    assert "acme" not in page
    url = client.authorize_url("/t/globex")
    assert "code" in query_of(browser.authorize(url, tenant="globex", username="linus"))


def test_a_user_of_another_tenant_has_to_log_in_at_a_tenants_own_address(client: AppClient) -> None:
    client.http.post(client.authorize_url(), data={"account": "acme/ada"})
    page = client.open_authorize("/t/globex").text
    assert 'value="globex/linus"' in page


def test_an_unknown_tenant_has_no_address(client: AppClient) -> None:
    assert client.open_authorize("/t/nowhere").status_code == 404


def test_nobody_logs_in_as_a_user_who_does_not_exist(client: AppClient) -> None:
    response = client.http.post(client.authorize_url(), data={"account": "acme/linus"})
    assert response.status_code == 400
    assert "There is no such user here." in response.text


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": None},
        {"redirect_uri": "http://127.0.0.1:8000/callback"},
        {"redirect_uri": "http://127.0.0.1:8000/callback/?extra"},
        {"redirect_uri": "http://localhost:8000/callback/"},
        {"redirect_uri": "https://attacker.example/"},
        {"client_id": "somebody-else"},
        {"client_id": None},
        {"redirect_uri": "https://attacker.example/", "scope": ""},
    ],
)
def test_a_wrong_client_or_redirect_uri_gets_a_page_and_no_redirect(
    client: AppClient, changes: dict[str, str | None]
) -> None:
    response = client.open_authorize(**changes)
    assert response.status_code == 400
    assert "Location" not in response.headers
    assert "This is a stand-in for ilert" in response.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"response_type": "token"}, "invalid_request"),
        ({"response_type": None}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "profile  source"}, "invalid_scope"),
        ({"scope": "source:x"}, "invalid_scope"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
    ],
)
def test_any_other_mistake_is_sent_back_with_the_state(
    client: AppClient, changes: dict[str, str | None], code: str
) -> None:
    response = client.open_authorize(**changes)
    query = query_of(response.headers["Location"])
    assert response.headers["Location"].startswith(f"{REDIRECT_URI}?")
    assert query["error"] == code
    assert query["error_description"]
    assert query["state"] == "a state & more"


def test_a_query_in_the_registered_uri_is_kept(standin: StandIn, client: AppClient) -> None:
    standin.options.redirect_uris = [f"{REDIRECT_URI}?from=ilert"]
    url = client.authorize_url(redirect_uri=f"{REDIRECT_URI}?from=ilert")
    assert query_of(browser.authorize(url)).keys() == {"from", "code", "state"}


def test_what_a_query_holds_is_escaped_on_the_pages(client: AppClient) -> None:
    page = client.http.post(
        client.authorize_url(scope="profile"), data={"account": "<script>alert(1)</script>"}
    )
    assert "<script" not in page.text


@pytest.mark.parametrize("path", ["/", "/manage-applications", "/nowhere"])
def test_every_page_says_what_it_is_and_loads_nothing(client: AppClient, path: str) -> None:
    response = client.http.get(client.base_url + path)
    assert "This is a stand-in for ilert" in response.text
    assert "http" not in response.text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "color-scheme:light dark" in response.text
    assert "@media(prefers-color-scheme:dark)" in response.text
