"""ilert's OAuth endpoints as tests call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from django_ilert_oauth.exceptions import IlertUnavailableError
from django_ilert_oauth.oauth.client import IlertClient
from django_ilert_oauth.oauth.secret import Secret
from tests.support import ilert_guide

API_URL = "https://api.ilert.com"
#: For what is to last as long.
SHORT = (0.2, 0.2)
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

Call = Callable[[IlertClient], Any]
CALLS: dict[str, Call] = {
    "exchange_code": lambda ilert: ilert.exchange_code(Secret(ilert_guide.CODE), Secret(VERIFIER)),
    "refresh": lambda ilert: ilert.refresh(Secret(ilert_guide.REFRESH_TOKEN)),
    "token_info": lambda ilert: ilert.token_info(Secret(ilert_guide.ACCESS_TOKEN)),
    "current_user": lambda ilert: ilert.current_user(Secret(ilert_guide.ACCESS_TOKEN)),
    "revoke": lambda ilert: ilert.revoke(Secret(ilert_guide.REFRESH_TOKEN)),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def open_client(api_url: str = API_URL, *, timeout: tuple[float, float] = (5, 5)) -> IlertClient:
    return IlertClient(
        api_url=api_url,
        client_id=ilert_guide.CLIENT_ID,
        client_secrets=[Secret(ilert_guide.CLIENT_SECRET)],
        timeout=timeout,
    )


def ask(call: Call = CALLS["refresh"], **keywords: Any) -> Any:
    with open_client(**keywords) as ilert:
        return call(ilert)


def unavailable(call: Call = CALLS["refresh"], **keywords: Any) -> IlertUnavailableError:
    with pytest.raises(IlertUnavailableError) as caught:
        ask(call, **keywords)
    return caught.value
