"""What the app's own tests see of the stand-in from within their process."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from ilert_standin import Fault, Options, StandIn, serve
from tests.support.app_client import CLIENT_SECRET, OAUTH, AppClient, oauth_error


def test_every_request_is_recorded_in_order(standin: StandIn, client: AppClient) -> None:
    client.api("GET", "alert-sources?start-index=5")
    client.refresh("unknown")
    listed, refreshed = standin.requests
    assert (listed.method, listed.path, listed.status) == ("GET", "/api/alert-sources", 401)
    assert listed.query == {"start-index": "5"}
    assert (refreshed.method, refreshed.path) == ("POST", f"{OAUTH}/token")
    assert refreshed.form["client_secret"] == CLIENT_SECRET
    assert refreshed.headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_a_record_is_frozen_and_shows_no_secret(standin: StandIn, client: AppClient) -> None:
    client.refresh("a-refresh-token")
    client.api("GET", "users/current?state=a-state", "an-access-token")
    for record in standin.requests:
        for secret in ("a-refresh-token", CLIENT_SECRET, "an-access-token", "a-state"):
            assert secret not in repr(record)
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.status = 200  # type: ignore[misc]


def test_token_requests_are_the_posts_to_the_token_endpoint(
    standin: StandIn, client: AppClient
) -> None:
    tokens = client.connect()
    client.token_info(tokens["access_token"])
    client.http.get(f"{client.base_url}{OAUTH}/token")
    assert [made.form["grant_type"] for made in standin.token_requests] == ["authorization_code"]


def test_the_app_is_revoked_as_the_user_would(standin: StandIn, client: AppClient) -> None:
    tokens = client.connect()
    standin.revoke_app("acme", "grace")
    assert standin.live_refresh_tokens("acme", "grace") == 0
    assert oauth_error(client.refresh(tokens["refresh_token"])) == (401, "invalid_grant")
    assert client.api("GET", "users/current", tokens["access_token"]).status_code == 200


def test_access_tokens_so_far_can_be_expired(standin: StandIn, client: AppClient) -> None:
    tokens = client.connect()
    standin.expire_access_tokens()
    assert client.api("GET", "users/current", tokens["access_token"]).status_code == 401
    fresh = client.refresh(tokens["refresh_token"]).json()["access_token"]
    assert client.api("GET", "users/current", fresh).status_code == 200


def test_tokens_can_be_issued_without_the_walk(standin: StandIn, client: AppClient) -> None:
    tokens = standin.issue_tokens("initech", "ada", "profile")
    profile = client.api("GET", "users/current", str(tokens["access_token"])).json()
    assert profile["username"] == "ada"
    assert client.refresh(str(tokens["refresh_token"])).status_code == 200
    assert standin.live_refresh_tokens("initech", "ada") == 1


def test_reset_forgets_everything_and_restores_the_options(
    standin: StandIn, client: AppClient
) -> None:
    tokens = client.connect()
    standin.options.rotate = True
    standin.add_fault("token", Fault(status=500))
    standin.reset()
    assert standin.requests == []
    assert standin.options.rotate is False
    assert standin.options.client_secret == CLIENT_SECRET
    assert oauth_error(client.refresh(tokens["refresh_token"])) == (401, "invalid_grant")
    assert client.connect()["expires_in"] == 3600


def test_the_options_given_are_not_changed() -> None:
    given = Options()
    standin = StandIn(given)
    standin.options.rotate = True
    standin.reset()
    assert given == Options() == standin.options


def test_options_show_no_secret() -> None:
    assert CLIENT_SECRET not in repr(Options(client_secret=CLIENT_SECRET))


def test_of_many_refreshes_at_once_with_rotation_one_wins(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.rotate = True
    token = str(standin.issue_tokens("acme", "grace")["refresh_token"])
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: client.refresh(token).status_code, range(8)))
    assert sorted(statuses) == [200] + [401] * 7


def test_serving_says_nothing_and_ends_with_the_block(
    standin: StandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(standin) as base_url:
        assert requests.get(f"{base_url}/", timeout=5).status_code == 200
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{base_url}/", timeout=5)
    assert capfd.readouterr() == ("", "")


def test_two_stand_ins_can_be_served_at_once() -> None:
    with serve(StandIn()) as one, serve(StandIn()) as other:
        assert one != other
