"""The waits of one request, by numbers alone."""

from __future__ import annotations

import time

import pytest
import requests

from django_ilert_oauth.api import retry
from django_ilert_oauth.api.retry import Retries


@pytest.fixture(autouse=True)
def jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest there is."""
    monkeypatch.setattr("random.uniform", lambda least, most: most)


def response(status: int, *, method: str = "GET", asked: str = "") -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.request = requests.Request(method, "https://api.ilert.com").prepare()
    if asked:
        made.headers["Retry-After"] = asked
    return made


def waits(*responses: requests.Response, max_wait: float = 100) -> list[float | None]:
    retries = Retries(max_wait)
    return [retries.wait_after(each) for each in responses]


def test_waits_for_a_gateway_double_and_end_after_three() -> None:
    assert waits(*[response(502)] * 4) == [1, 2, 4, None]


def test_the_shortest_wait_is_half_of_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: least)
    assert waits(*[response(502)] * 3) == [0.5, 1, 2]


def test_a_rate_limit_uses_up_time_and_no_retry() -> None:
    limited = [response(429, asked="30")] * 3
    assert waits(*limited, response(503), response(503), response(503)) == [30, 30, 30, 1, 2, 4]


def test_a_rate_limit_is_waited_out_for_a_second_at_least() -> None:
    assert waits(response(429, asked="0")) == [1]


def test_where_ilert_asks_for_no_time_a_rate_limit_is_waited_out_for_what_is_left() -> None:
    assert waits(response(429), max_wait=20) == [20]
    assert waits(response(429), max_wait=9) == [None]


def test_a_gateway_is_given_the_time_that_it_asks_for() -> None:
    assert waits(response(503, asked="7"), response(503, asked="1")) == [7, 2]


def test_all_waits_together_are_no_longer_than_allowed() -> None:
    assert waits(response(429, asked="7"), response(429, asked="3"), max_wait=10) == [7, 3]
    assert waits(response(429, asked="7"), response(429, asked="4"), max_wait=10) == [7, None]


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [(200, "GET", None), (500, "GET", None), (502, "POST", None), (429, "POST", 30)],
)
def test_other_responses_are_final(status: int, method: str, expected: float | None) -> None:
    assert waits(response(status, method=method)) == [expected]


def test_waiting_is_sleeping(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    retry.wait(7)
    assert slept == [7]
