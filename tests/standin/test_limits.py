from ilert_standin import StandIn
from tests.support.app_client import AppClient, Clock, rest_error


def test_over_the_limit_comes_429_until_the_minute_is_over(
    standin: StandIn, client: AppClient, clock: Clock
) -> None:
    standin.options.requests_per_minute = 3
    clock.advance(59)
    for _ in range(3):
        assert client.api("GET", "users/current").status_code == 401
    response = client.post("token", {})
    assert rest_error(response) == (429, "TOO_MANY_REQUESTS")
    assert "Retry-After" not in response.headers
    clock.advance(1)
    assert client.api("GET", "users/current").status_code == 401


def test_a_refused_request_changes_nothing(
    standin: StandIn, client: AppClient, clock: Clock
) -> None:
    standin.options.rotate = True
    token = str(standin.issue_tokens("acme", "grace")["refresh_token"])
    standin.options.requests_per_minute = 1
    client.api("GET", "users/current")
    assert client.refresh(token).status_code == 429
    clock.advance(60)
    assert client.refresh(token).status_code == 200


def access_token(standin: StandIn, username: str) -> str:
    return str(standin.issue_tokens("acme", username)["access_token"])


def test_each_token_has_a_bucket_of_its_own_for_a_minute(
    standin: StandIn, client: AppClient, clock: Clock
) -> None:
    standin.options.requests_per_token = 2
    one, other = access_token(standin, "grace"), access_token(standin, "ada")
    statuses = [client.api("GET", "users/current", one).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.api("GET", "users/current", other).status_code == 200
    clock.advance(60)
    assert client.api("GET", "users/current", one).status_code == 200


def test_a_tokens_bucket_leaves_requests_without_one_alone(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.requests_per_token = 1
    assert {client.refresh("unknown").status_code for _ in range(3)} == {401}


def test_a_tokens_requests_count_for_its_address_too(standin: StandIn, client: AppClient) -> None:
    standin.options.requests_per_minute = 1
    token = access_token(standin, "grace")
    statuses = [client.api("GET", "users/current", token).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_the_default_limit_is_ilerts(standin: StandIn) -> None:
    assert standin.options.requests_per_minute == 700


def test_no_limit_is_zero(standin: StandIn, client: AppClient) -> None:
    standin.options.requests_per_minute = 0
    for _ in range(5):
        assert client.api("GET", "users/current").status_code == 401


def test_pages_do_not_count(standin: StandIn, client: AppClient) -> None:
    standin.options.requests_per_minute = 1
    for _ in range(3):
        assert client.open_authorize().status_code == 200


def test_retry_after_is_sent_if_asked_for(standin: StandIn, client: AppClient) -> None:
    standin.options.requests_per_minute = 1
    standin.options.retry_after = 7
    client.api("GET", "users/current")
    assert client.api("GET", "users/current").headers["Retry-After"] == "7"
