"""Several clients at once: a grant belongs to the one that it was given to."""

import pytest

from ilert_standin import Client, Options, StandIn, browser
from tests.support.app_client import CLIENT_SECRET, REDIRECT_URI, AppClient, oauth_error, query_of

URI = "https://staging.example/callback/"
OTHER = Client("other-client", "other-secret", [URI])
AS_OTHER = {"client_id": OTHER.id, "client_secret": OTHER.secret}


@pytest.fixture(autouse=True)
def two_clients(standin: StandIn) -> None:
    standin.options.more_clients = [OTHER]


def code(client: AppClient) -> str:
    url = client.authorize_url(client_id=OTHER.id, redirect_uri=URI)
    callback_url = browser.authorize(url)
    assert callback_url.startswith(URI)
    return query_of(callback_url)["code"]


def refresh_token(standin: StandIn, client_id: str | None = None) -> str:
    tokens = standin.issue_tokens("acme", "grace", client_id=client_id)
    return str(tokens["refresh_token"])


def test_each_connects_with_its_own_credentials_and_redirect_uri(client: AppClient) -> None:
    tokens = client.exchange(code(client), **AS_OTHER).json()
    assert client.refresh(tokens["refresh_token"], **AS_OTHER).status_code == 200
    assert client.exchange(client.code()).status_code == 200


def test_each_is_an_app_of_its_own(client: AppClient) -> None:
    other = client.exchange(code(client), **AS_OTHER).json()
    tokens = [client.connect()["access_token"], other["access_token"]]
    infos = [client.post("token_info", {"token": token}).json() for token in tokens]
    assert [info["app_id"] for info in infos] == [250, 251]


@pytest.mark.parametrize(
    "changes", [{"client_id": OTHER.id}, {"redirect_uri": URI}, {"client_id": URI}]
)
def test_a_redirect_uri_is_good_for_its_client_alone(
    client: AppClient, changes: dict[str, str | None]
) -> None:
    response = client.open_authorize(**changes)
    assert response.status_code == 400
    assert "Location" not in response.headers


def test_a_secret_is_good_for_its_client_alone(standin: StandIn, client: AppClient) -> None:
    token = refresh_token(standin, OTHER.id)
    response = client.refresh(token, client_id=OTHER.id, client_secret=CLIENT_SECRET)
    assert oauth_error(response) == (401, "invalid_grant")


def test_a_code_is_exchanged_by_the_client_that_asked_for_it_alone(client: AppClient) -> None:
    asked = code(client)
    assert oauth_error(client.exchange(asked)) == (401, "invalid_grant")
    assert client.exchange(asked, **AS_OTHER).status_code == 200


def test_a_grant_is_refreshed_by_its_client_alone(standin: StandIn, client: AppClient) -> None:
    token = refresh_token(standin, OTHER.id)
    assert oauth_error(client.refresh(token)) == (401, "invalid_grant")
    assert client.refresh(token, **AS_OTHER).status_code == 200


def test_a_used_token_ends_nothing_when_another_client_sends_it(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.rotate = standin.options.detect_reuse = True
    used = refresh_token(standin, OTHER.id)
    live = client.refresh(used, **AS_OTHER).json()["refresh_token"]
    client.refresh(used)
    assert list(standin.ledger().values()) == [live]


def test_ending_all_grants_of_a_person_spares_other_clients(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.revoke_ends_all = True
    mine, others = refresh_token(standin), refresh_token(standin, OTHER.id)
    client.post("revoke", {"token": mine})
    assert list(standin.ledger().values()) == [others]


def test_ten_refresh_tokens_are_counted_for_each_client(standin: StandIn) -> None:
    first = refresh_token(standin, OTHER.id)
    for _ in range(11):
        refresh_token(standin)
    assert standin.live_refresh_tokens("acme", "grace") == 11
    assert standin.grant_of(first) in standin.ledger()


def test_wrong_credentials_can_be_an_invalid_client(standin: StandIn, client: AppClient) -> None:
    standin.options.client_error = "invalid_client"
    response = client.refresh(refresh_token(standin), client_secret="wrong")
    assert oauth_error(response) == (401, "invalid_client")


def test_tokens_are_not_issued_to_an_unknown_client(standin: StandIn) -> None:
    with pytest.raises(ValueError, match="no client 'unknown'"):
        standin.issue_tokens("acme", "grace", client_id="unknown")


def test_reset_brings_the_clients_back_that_were_given(standin: StandIn) -> None:
    standin.reset()
    assert standin.options.more_clients == ()
    given = StandIn(Options(redirect_uris=[REDIRECT_URI], more_clients=[OTHER]))
    given.reset()
    assert given.options.more_clients == [OTHER]


def test_a_client_shows_no_secret() -> None:
    assert OTHER.secret not in repr(Options(more_clients=[OTHER]))
