import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode, urlsplit

import pytest
import requests

from ilert_standin import Fault, StandIn
from ilert_standin.faults import parse_fault
from tests.support.app_client import (
    CLIENT_ID,
    CLIENT_SECRET,
    OAUTH,
    AppClient,
    oauth_error,
    rest_error,
)


def inject(standin: StandIn, text: str) -> None:
    standin.add_fault(*parse_fault(text))


def test_a_fault_comes_once_and_then_the_real_response(standin: StandIn, client: AppClient) -> None:
    token = client.connect()["refresh_token"]
    standin.add_fault("token", Fault(status=503, body="busy", headers={"Retry-After": "9"}))
    response = client.refresh(token)
    assert (response.status_code, response.text) == (503, "busy")
    assert response.headers["Retry-After"] == "9"
    assert client.refresh(token).status_code == 200


def test_faults_come_in_the_order_they_were_added(standin: StandIn, client: AppClient) -> None:
    standin.add_fault("token", Fault(status=500), times=2)
    standin.add_fault("token", Fault(status=502))
    statuses = [client.refresh("unknown").status_code for _ in range(4)]
    assert statuses == [500, 500, 502, 401]


def test_a_fault_can_stay_for_ever(standin: StandIn, client: AppClient) -> None:
    standin.add_fault("token", Fault(status=500), times=None)
    assert {client.refresh("unknown").status_code for _ in range(5)} == {500}


def test_a_fault_is_for_its_endpoint_alone(standin: StandIn, client: AppClient) -> None:
    inject(standin, "token:500:0")
    inject(standin, "alert-sources:503")
    assert client.token_info("unknown") == {"active": False}
    assert client.api("GET", "users/current").status_code == 401
    assert client.api("GET", "alert-sources/1001").status_code == 503


def test_a_fault_changes_nothing(standin: StandIn, client: AppClient) -> None:
    code = client.code()
    inject(standin, "token:drop")
    with pytest.raises(requests.ConnectionError):
        client.exchange(code)
    assert client.exchange(code).status_code == 200


def test_the_authorize_page_can_fail_at_a_tenants_address_too(
    standin: StandIn, client: AppClient
) -> None:
    inject(standin, "authorize:503:2")
    assert client.open_authorize().status_code == 503
    assert client.open_authorize("/t/acme").status_code == 503


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("500", 500, "server_error"),
        ("503", 503, "server_error"),
        ("invalid_grant", 401, "invalid_grant"),
        ("invalid_scope", 400, "invalid_scope"),
    ],
)
def test_a_named_oauth_error_has_ilerts_body(
    standin: StandIn, client: AppClient, what: str, status: int, code: str
) -> None:
    inject(standin, f"token:{what}")
    assert oauth_error(client.refresh("unknown")) == (status, code)


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("users/current:503", 503, "SERVICE_UNAVAILABLE"),
        ("users/current:429", 429, "TOO_MANY_REQUESTS"),
    ],
)
def test_a_status_on_the_rest_api_has_its_body(
    standin: StandIn, client: AppClient, text: str, status: int, code: str
) -> None:
    inject(standin, text)
    assert rest_error(client.api("GET", "users/current")) == (status, code)


def test_a_429_on_the_token_endpoint_comes_without_retry_after(
    standin: StandIn, client: AppClient
) -> None:
    inject(standin, "token:429")
    response = client.refresh("unknown")
    assert response.status_code == 429
    assert "Retry-After" not in response.headers


@pytest.mark.parametrize("what", ["html", "empty", "truncated"])
def test_a_response_can_be_no_json_at_all(standin: StandIn, client: AppClient, what: str) -> None:
    inject(standin, f"token:{what}")
    response = client.refresh("unknown")
    assert response.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        response.json()


def test_a_slow_response_is_the_real_one(standin: StandIn, client: AppClient) -> None:
    inject(standin, "token:hang=0.1")
    started = time.monotonic()
    assert oauth_error(client.refresh("unknown")) == (401, "invalid_grant")
    assert time.monotonic() - started >= 0.1


def test_a_hanging_response_runs_into_the_clients_timeout(
    standin: StandIn, client: AppClient
) -> None:
    inject(standin, "users/current:hang=0.3")
    with pytest.raises(requests.ReadTimeout):
        client.http.get(f"{client.base_url}/api/users/current", timeout=0.05)
    assert [made.status for made in standin.requests] == [0]


def test_a_dropped_request_is_recorded_without_a_status(
    standin: StandIn, client: AppClient
) -> None:
    standin.add_fault("token", Fault(drop=True))
    with pytest.raises(requests.ConnectionError):
        client.refresh("unknown")
    assert [made.status for made in standin.token_requests] == [0]


def test_a_lost_response_is_of_a_request_that_was_carried_out(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.rotate = True
    token = client.connect()["refresh_token"]
    inject(standin, "token:lost")
    with pytest.raises(requests.ConnectionError):
        client.refresh(token)
    assert standin.token_requests[-1].status == 0
    (live,) = standin.ledger().values()
    assert live != token
    assert oauth_error(client.refresh(token)) == (401, "invalid_grant")


def test_a_late_response_is_of_a_request_that_was_carried_out_at_once(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.rotate = True
    token = client.connect()["refresh_token"]
    inject(standin, "token:late=0.5")
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.refresh, token)
        while standin.ledger() == {standin.grant_of(token): token}:
            time.sleep(0.01)
        assert not future.done()
        assert future.result().json()["refresh_token"] in standin.ledger().values()
    assert time.monotonic() - started >= 0.5


def raw_refresh(client: AppClient, token: str) -> tuple[float, float, bytes]:
    """Seconds until the headers had come, and then until the body had; and all of it."""
    form = urlencode(
        {
            "grant_type": "refresh_token",
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "refresh_token": token,
        }
    )
    host, port = urlsplit(client.base_url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            f"POST {OAUTH}/token HTTP/1.1\r\nHost: {host}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(form)}\r\n\r\n{form}".encode()
        )
        started, headers_came, received = time.monotonic(), 0.0, b""
        while piece := connection.recv(1000):
            received += piece
            if not headers_came and b"\r\n\r\n" in received:
                headers_came = time.monotonic()
    return headers_came - started, time.monotonic() - headers_came, received


@pytest.mark.parametrize("what", ["drip", "drip-headers"])
def test_a_dripping_response_is_the_real_one(
    standin: StandIn, client: AppClient, what: str
) -> None:
    token = str(standin.issue_tokens("acme", "grace")["refresh_token"])
    inject(standin, f"token:{what}=0.0001")
    response = client.refresh(token)
    assert client.api("GET", "users/current", response.json()["access_token"]).status_code == 200


def test_a_body_drips_after_its_headers(standin: StandIn, client: AppClient) -> None:
    inject(standin, "token:drip=0.005")
    head, body, received = raw_refresh(client, "unknown")
    assert head < body
    assert body >= 0.005 * len(received.partition(b"\r\n\r\n")[2].rstrip())


def test_headers_drip_before_their_body(standin: StandIn, client: AppClient) -> None:
    inject(standin, "token:drip-headers=0.002")
    head, body, received = raw_refresh(client, "unknown")
    assert head >= 0.002 * len(received.partition(b"\r\n\r\n")[0])
    assert body < head


def test_a_body_can_drip_more_slowly_than_a_client_is_patient(
    standin: StandIn, client: AppClient
) -> None:
    inject(standin, "users/current:drip=1")
    with pytest.raises(requests.ConnectionError):
        client.http.get(f"{client.base_url}/api/users/current", timeout=0.3)
    assert client.api("GET", "users/current").status_code == 401


def test_a_gateway_before_ilert_responds_in_html(standin: StandIn, client: AppClient) -> None:
    inject(standin, "token:gateway")
    response = client.refresh("unknown")
    assert (response.status_code, response.headers["Content-Type"]) == (502, "text/html")


def test_latency_slows_the_api_and_not_the_pages(standin: StandIn, client: AppClient) -> None:
    standin.options.latency = 0.2
    started = time.monotonic()
    client.open_authorize()
    assert time.monotonic() - started < 0.2
    client.api("GET", "users/current")
    assert time.monotonic() - started >= 0.2


def test_waiting_requests_do_not_wait_for_each_other(standin: StandIn, client: AppClient) -> None:
    standin.add_fault("users/current", Fault(delay=1))
    with pytest.raises(requests.ReadTimeout):
        client.http.get(f"{client.base_url}/api/users/current", timeout=0.05)
    started = time.monotonic()
    assert client.api("GET", "users/current").status_code == 401
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "token",
        "token:",
        "tokens:500",
        "token:200",
        "token:teapot",
        "token:hang",
        "token:hang=",
        "token:hang=long",
        "token:late",
        "token:lost=1",
        "token:hang=nan",
        "token:500:many",
        "token:500:1:2",
    ],
)
def test_a_misspelt_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_fault(text)


def test_a_fault_for_no_known_endpoint_is_refused(standin: StandIn) -> None:
    with pytest.raises(ValueError, match="choose from authorize, token"):
        standin.add_fault("tokens", Fault(status=500))
