from collections.abc import Iterator

import pytest
import requests

from ilert_standin import Options, StandIn, serve
from tests.support.app_client import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, AppClient, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def standin(clock: Clock) -> StandIn:
    options = Options(
        client_id=CLIENT_ID, client_secret=CLIENT_SECRET, redirect_uris=[REDIRECT_URI]
    )
    return StandIn(options, clock=clock)


@pytest.fixture
def client(standin: StandIn) -> Iterator[AppClient]:
    with serve(standin) as base_url, requests.Session() as http:
        http.trust_env = False
        yield AppClient(base_url, http)
