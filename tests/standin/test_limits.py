from ilert_standin import StandIn
from tests.standin.app_client import AppClient, Clock, rest_error


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
