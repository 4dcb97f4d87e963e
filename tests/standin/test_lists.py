"""How the lists page: as ilert's own do."""

from typing import Any

import pytest

from ilert_standin import StandIn
from ilert_standin.faults import parse_fault
from ilert_standin.lists import LISTS
from tests.support.app_client import AppClient, missing_scope, rest_error


def token(standin: StandIn, scope: str = "wildcard", tenant: str = "acme") -> str:
    standin.options.alert_sources = 53
    return str(standin.issue_tokens(tenant, "grace", scope)["access_token"])


@pytest.fixture
def mine(standin: StandIn) -> str:
    """May read everything."""
    return token(standin)


@pytest.fixture(params=LISTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def path_of(name: str, client: AppClient, mine: str) -> str:
    """With the id of something that is there."""
    parent, has_id, _ = name.partition("/{id}")
    if not has_id:
        return name
    return name.replace("{id}", str(client.api("GET", parent, mine).json()[0]["id"]))


def walk(client: AppClient, mine: str, path: str, size: int) -> list[Any]:
    """Every page, as a client of either kind of list would ask for it."""
    items: list[Any] = []
    query = f"start-index=0&max-results={size}"
    while True:
        response = client.api("GET", f"{path}?{query}", mine)
        page = response.json()
        items += page
        cursor = response.headers.get("next-cursor")
        if cursor is None and len(page) < size:
            return items
        query = f"max-results={size}&" + (
            f"cursor={cursor}" if cursor else f"start-index={len(items)}"
        )


def test_there_are_as_many_as_ilert_has() -> None:
    assert len(LISTS) == 25


def test_each_holds_more_than_its_largest_page_and_nothing_twice(
    client: AppClient, mine: str, name: str
) -> None:
    largest = LISTS[name].largest_page
    items = walk(client, mine, path_of(name, client, mine), largest)
    assert len({str(item) for item in items}) == len(items) > largest


def test_each_has_a_page_of_its_own_size(client: AppClient, mine: str, name: str) -> None:
    path = path_of(name, client, mine)
    assert len(client.api("GET", path, mine).json()) == LISTS[name].page
    assert len(client.api("GET", f"{path}?max-results=3", mine).json()) == 3


def test_each_refuses_too_large_a_page(client: AppClient, mine: str, name: str) -> None:
    largest = LISTS[name].largest_page
    response = client.api("GET", f"{path_of(name, client, mine)}?max-results={largest + 1}", mine)
    assert rest_error(response) == (400, "BAD_REQUEST")
    assert response.json()["message"] == f"'max-results' must not be above {largest}"


def test_each_needs_its_scope_and_a_token(
    standin: StandIn, client: AppClient, mine: str, name: str
) -> None:
    path, scope = path_of(name, client, mine), LISTS[name].scope
    assert client.api("GET", path).status_code == 401
    assert client.api("GET", path, token(standin, scope or "profile")).status_code == 200
    if scope:
        assert missing_scope(client.api("GET", path, token(standin, "profile"))) == scope


def test_each_can_fail(standin: StandIn, client: AppClient, mine: str, name: str) -> None:
    path = path_of(name, client, mine)
    standin.add_fault(*parse_fault(f"{name.replace('/{id}', '')}:503"))
    assert client.api("GET", path, mine).status_code == 503


@pytest.mark.parametrize(
    ("path", "size", "largest"),
    [
        ("schedules", 20, 20),
        ("alert-sources", 50, 50),
        ("on-calls", 50, 250),
        ("status-pages", 25, 50),
        ("metrics", 10, 100),
        ("heartbeat-monitors", 100, 200),
    ],
)
def test_the_sizes_are_ilerts(
    client: AppClient, mine: str, path: str, size: int, largest: int
) -> None:
    assert len(client.api("GET", path, mine).json()) == size
    assert len(client.api("GET", f"{path}?max-results={largest}", mine).json()) == largest


@pytest.mark.parametrize("path", ["services", "incidents", "metrics"])
def test_with_include_pages_are_smaller(client: AppClient, mine: str, path: str) -> None:
    assert len(client.api("GET", f"{path}?include=x&max-results=25", mine).json()) == 25
    response = client.api("GET", f"{path}?include=x&max-results=26", mine)
    assert rest_error(response) == (400, "BAD_REQUEST")
    told = "'max-results' must not be above 25, when using 'include'"
    assert response.json()["message"] == told


def test_where_include_changes_nothing_pages_stay_as_large(client: AppClient, mine: str) -> None:
    items = client.api("GET", "alerts?include=x&max-results=100", mine).json()
    assert len(items) == 100


def test_a_list_may_begin_later_and_ends_with_an_empty_page(client: AppClient, mine: str) -> None:
    items = walk(client, mine, "schedules", 20)
    later = client.api("GET", "schedules?start-index=10&max-results=3", mine).json()
    assert later == items[10:13]
    assert client.api("GET", f"schedules?start-index={len(items)}", mine).json() == []


@pytest.mark.parametrize("query", ["start-index=-1", "max-results=many", "start-index="])
def test_a_page_that_is_no_number_is_refused(client: AppClient, mine: str, query: str) -> None:
    response = client.api("GET", f"alert-sources?{query}", mine)
    assert rest_error(response) == (400, "BAD_REQUEST")


def test_a_cursor_leads_to_the_next_page_and_the_last_page_has_none(
    client: AppClient, mine: str
) -> None:
    first = client.api("GET", "heartbeat-monitors?max-results=200", mine)
    cursor = first.headers["next-cursor"]
    last = client.api("GET", f"heartbeat-monitors?max-results=200&cursor={cursor}", mine)
    assert last.json()
    assert last.json()[0] not in first.json()
    assert "next-cursor" not in last.headers


def test_a_cursor_is_not_to_be_made_up(client: AppClient, mine: str) -> None:
    response = client.api("GET", "heartbeat-monitors?cursor=100", mine)
    assert rest_error(response) == (400, "BAD_REQUEST")


def test_no_other_list_has_a_cursor(client: AppClient, mine: str) -> None:
    assert "next-cursor" not in client.api("GET", "users", mine).headers


@pytest.mark.parametrize("path", ["alerts", "schedules", "users", "heartbeat-monitors"])
def test_a_thing_of_a_list_is_read_by_itself(client: AppClient, mine: str, path: str) -> None:
    last = client.api("GET", path, mine).json()[-1]
    assert client.api("GET", f"{path}/{last['id']}", mine).json() == last
    assert rest_error(client.api("GET", f"{path}/999999", mine)) == (404, "NOT_FOUND")
    assert rest_error(client.api("DELETE", path, mine)) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize("path", ["alerts/7/log-entries", "status-pages/7/groups", "nothing/7"])
def test_what_is_not_there_has_no_list(client: AppClient, mine: str, path: str) -> None:
    assert rest_error(client.api("GET", path, mine)) == (404, "NOT_FOUND")


def test_the_people_who_log_in_are_users_and_on_call(client: AppClient, mine: str) -> None:
    users = client.api("GET", "users", mine).json()
    assert [user["username"] for user in users[:2]] == ["grace", "ada"]
    shifts = client.api("GET", "on-calls", mine).json()
    assert {shift["user"]["username"] for shift in shifts} == {"grace", "ada"}


def test_a_tenant_without_them_has_people_of_its_own(standin: StandIn, client: AppClient) -> None:
    theirs = token(standin, tenant="new-tenant")
    users = {user["id"] for user in walk(client, theirs, "users", 100)}
    assert {shift["user"]["id"] for shift in walk(client, theirs, "on-calls", 250)} <= users


def test_times_have_none_or_three_or_six_decimals(client: AppClient, mine: str) -> None:
    times = [team["createdAt"] for team in client.api("GET", "teams", mine).json()]
    assert {len(time) for time in times} == {20, 24, 27}
