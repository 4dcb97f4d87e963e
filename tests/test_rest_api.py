"""``IlertSession`` at each part of ilert's API that it was made for, on the stand-in."""

from __future__ import annotations

from typing import Any

import pytest

from django_ilert_oauth.exceptions import IlertHTTPError
from django_ilert_oauth.session import IlertSession
from ilert_standin import StandIn
from tests.conftest import AccountFactory

SOURCE: dict[str, Any] = {"name": "Lift", "integrationType": "API", "escalationPolicy": {"id": 1}}


def test_users_are_listed_and_read(make_account: AccountFactory) -> None:
    with IlertSession(make_account(granted_scope="user")) as ilert:
        users = list(ilert.list("/api/users"))
        assert [user["username"] for user in users[:2]] == ["grace", "ada"]
        assert ilert.get(f"/api/users/{users[1]['id']}").json() == users[1]


def test_a_team_is_named_with_each_request(make_account: AccountFactory, ilert: StandIn) -> None:
    with IlertSession(make_account(granted_scope="schedule"), team_context=7) as session:
        list(session.list("/api/schedules"))
    for name in ("Team-Context", "X-Team-Context"):
        assert {request.headers[name] for request in ilert.requests} == {"7"}


def test_an_alert_source_is_created_listed_edited_and_deleted(make_account: AccountFactory) -> None:
    with IlertSession(make_account(granted_scope="source:d")) as ilert:
        made = ilert.post("/api/alert-sources", json=SOURCE).json()
        one = f"/api/alert-sources/{made['id']}"
        assert made in list(ilert.list("/api/alert-sources"))
        ilert.put(one, json={**SOURCE, "name": "Crane"}).raise_for_status()
        assert ilert.get(one).json() == {**made, "name": "Crane"}
        ilert.delete(one).raise_for_status()
        assert made["id"] not in [source["id"] for source in ilert.list("/api/alert-sources")]


@pytest.mark.parametrize(
    ("scope", "created", "deleted"),
    [
        ("source:r", "OAUTH2_SCOPE_ERROR", "OAUTH2_SCOPE_ERROR"),
        ("source:w", "", "OAUTH2_SCOPE_ERROR"),
        ("source:d", "", ""),
    ],
)
def test_a_scope_reaches_so_far(
    make_account: AccountFactory, scope: str, created: str, deleted: str
) -> None:
    with IlertSession(make_account(granted_scope=scope)) as ilert:
        first = next(ilert.list("/api/alert-sources"))
        one = f"/api/alert-sources/{first['id']}"
        assert code(ilert, "POST", "/api/alert-sources", json=SOURCE) == created
        assert code(ilert, "PUT", one, json=SOURCE) == created
        assert code(ilert, "DELETE", one) == deleted


def code(ilert: IlertSession, method: str, path: str, **kwargs: Any) -> str:
    """The code of ilert's error; empty for success."""
    try:
        ilert.request(method, path, **kwargs).raise_for_status()
    except IlertHTTPError as error:
        return error.code
    return ""


def test_alerts_are_listed_and_read(make_account: AccountFactory) -> None:
    with IlertSession(make_account(granted_scope="alert:r")) as ilert:
        alerts = list(ilert.list("/api/alerts", **{"max-results": 20}))
        assert {alert["status"] for alert in alerts} == {"PENDING", "ACCEPTED", "RESOLVED"}
        assert ilert.get(f"/api/alerts/{alerts[0]['id']}").json() == alerts[0]


@pytest.mark.parametrize("path", ["users", "alerts", "schedules", "on-calls", "alert-sources"])
def test_each_needs_its_scope(make_account: AccountFactory, path: str) -> None:
    with IlertSession(make_account(granted_scope="profile")) as ilert:
        assert code(ilert, "GET", f"/api/{path}") == "OAUTH2_SCOPE_ERROR"
