"""Every run makes progress, whatever ilert says about some of the accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from django.core.management import CommandError, call_command
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount, Status
from django_ilert_oauth.oauth import transport
from ilert_standin import StandIn

from .conftest import MakeDue, lost, refreshed

pytestmark = pytest.mark.django_db(transaction=True)


def run(**options: Any) -> flows.BulkResult:
    due = ConnectedAccount.objects.connected().filter(refreshed_at__isnull=True)
    return flows.refresh_many(due, per_minute=0, **options)


def statuses(accounts: Iterable[ConnectedAccount]) -> set[str]:
    pks = [account.pk for account in accounts]
    return set(ConnectedAccount.objects.filter(pk__in=pks).values_list("status", flat=True))


def end(ilert: StandIn, accounts: Iterable[ConnectedAccount]) -> None:
    for account in accounts:
        ilert.revoke_app("acme", account.username)


class Answering(HTTPAdapter):
    """Some refresh tokens get a status and a body instead of ilert's response."""

    def __init__(self, accounts: Iterable[ConnectedAccount], status: int, body: bytes) -> None:
        super().__init__()
        self._tokens = {account.refresh_token.reveal() for account in accounts}
        self._answer = status, body
        self.answered = 0

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        [token] = parse_qs(request.body).get("refresh_token", [""])
        if token not in self._tokens:
            return super().send(request, *args, **kwargs)
        self.answered += 1
        status, body = self._answer
        raw = HTTPResponse(BytesIO(body), status=status, preload_content=False)
        return self.build_response(request, raw)


@pytest.fixture
def answering(settings: Any) -> Iterable[Callable[..., Answering]]:
    def mount(accounts: Iterable[ConnectedAccount], status: int, body: bytes) -> Answering:
        adapter = Answering(accounts, status, body)
        transport.adapters[settings.ILERT_OAUTH_API_URL] = adapter
        return adapter

    yield mount
    transport.adapters.clear()


def test_dead_accounts_and_no_live_one_are_not_marked_and_both_causes_are_named(
    make_due: MakeDue, ilert: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    accounts = make_due(30)
    end(ilert, accounts)
    with pytest.raises(CommandError) as raised:
        call_command("refresh_ilert_tokens", "--per-minute", "0")
    assert raised.value.returncode == 2
    text = " ".join(str(raised.value).split())
    for part in ("ILERT_OAUTH_CLIENT_SECRET", "have ended", "--mark-ended"):
        assert part in text
    assert statuses(accounts) == {Status.CONNECTED}
    with pytest.raises(CommandError):
        call_command("refresh_ilert_tokens", "--per-minute", "0", "--mark-ended")
    assert statuses(accounts) == {Status.RECONNECT_REQUIRED}


def test_live_accounts_behind_many_that_ended_together_are_refreshed_in_one_run(
    make_due: MakeDue, ilert: StandIn
) -> None:
    dead, live = make_due(100), make_due(60, first=100)
    end(ilert, dead)
    result = run(concurrency=8)
    assert (result.refreshed, result.failed, result.stopped) == (60, 100, "")
    assert statuses(dead) == {Status.RECONNECT_REQUIRED}
    assert refreshed(live) == 60
    assert {account.pk for account in lost(ilert)} == {account.pk for account in dead}


def test_what_failed_before_goes_last(make_due: MakeDue, ilert: StandIn, answering: Any) -> None:
    bad, healthy = make_due(5), make_due(5, first=5)
    answering(bad, 500, b'{"code": "server_error", "error": "x"}')
    assert run(concurrency=1, limit=5).failed == 5
    asked: list[Any] = []
    result = run(concurrency=1, on_done=asked.append, limit=5)
    assert sorted(asked) == [account.pk for account in healthy]
    assert result.refreshed == 5


def test_tokens_that_get_a_500_are_no_outage(
    make_due: MakeDue, ilert: StandIn, answering: Any
) -> None:
    bad, healthy = make_due(25), make_due(40, first=25)
    answering(bad, 500, b'{"code": "server_error", "error": "x"}')
    result = run()
    assert (result.refreshed, result.failed, result.stopped) == (40, 25, "")
    assert refreshed(healthy) == 40


def test_a_gateway_that_answers_for_ilert_is_an_outage(
    make_due: MakeDue, ilert: StandIn, answering: Any
) -> None:
    accounts = make_due(40)
    adapter = answering(accounts, 502, b"<html>Bad gateway</html>")
    result = run(concurrency=2)
    assert result.stopped == "outage"
    assert adapter.answered < 20
    assert statuses(accounts) == {Status.CONNECTED}


def test_a_client_that_ilert_does_not_know_ends_the_run_at_once(
    make_due: MakeDue, ilert: StandIn, answering: Any
) -> None:
    accounts = make_due(60)
    adapter = answering(accounts, 401, b'{"code": "invalid_client", "error": "x"}')
    result = run(concurrency=4)
    assert result.stopped == "invalid_client"
    assert adapter.answered <= 4
    assert statuses(accounts) == {Status.CONNECTED}


def test_the_next_run_begins_with_those_that_were_not_asked(
    make_due: MakeDue, ilert: StandIn, answering: Any
) -> None:
    accounts = make_due(40)
    answering(accounts[:20], 502, b"<html>Bad gateway</html>")
    for _run in range(3):
        run(concurrency=2)
    assert refreshed(accounts[20:]) == 20


def test_no_page_waits_for_an_account_that_a_slow_run_will_ask_for_later(
    make_due: MakeDue, ilert: StandIn
) -> None:
    accounts = make_due(50)

    def look(_result: flows.BulkResult) -> None:
        if accounts[-1].refreshed_at is None:
            flows.refresh(accounts[-1])

    result = flows.refresh_many(
        ConnectedAccount.objects.all(), per_minute=6000, limit=5, on_progress=look
    )
    assert result.refreshed == 5
    assert accounts[-1].refreshed_at is not None
    assert lost(ilert) == []
