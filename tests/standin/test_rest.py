import pytest

from ilert_standin import StandIn
from tests.standin.app_client import AppClient, rest_error

NEW_SOURCE = {
    "name": "Shop",
    "integrationType": "API",
    "escalationPolicy": {"id": 1},
}


def token(standin: StandIn, scope: str, tenant: str = "acme") -> str:
    return str(standin.issue_tokens(tenant, "grace", scope)["access_token"])


def test_the_profile_is_the_users_own(client: AppClient) -> None:
    tokens = client.connect("acme", "ada", "profile")
    profile = client.api("GET", "users/current", tokens["access_token"]).json()
    assert (profile["username"], profile["firstName"], profile["language"]) == ("ada", "Ada", "de")
    assert isinstance(profile["id"], int)


def test_some_profiles_lack_a_field(standin: StandIn, client: AppClient) -> None:
    grace = client.api("GET", "users/current", token(standin, "profile")).json()
    other = client.api("GET", "users/current", token(standin, "profile", "globex")).json()
    assert grace["position"] == "On-call lead"
    assert "position" not in other


@pytest.mark.parametrize("path", ["users/current", "alert-sources"])
def test_without_a_good_token_nobody_gets_in(client: AppClient, path: str) -> None:
    assert rest_error(client.api("GET", path)) == (401, "UNAUTHORIZED")
    assert rest_error(client.api("GET", path, "unknown")) == (401, "UNAUTHORIZED")
    basic = client.http.get(f"{client.base_url}/api/{path}", auth=("user", "password"))
    assert rest_error(basic) == (401, "UNAUTHORIZED")


def test_a_refresh_token_is_no_access_token(client: AppClient) -> None:
    refresh_token = client.connect()["refresh_token"]
    assert client.api("GET", "users/current", refresh_token).status_code == 401


@pytest.mark.parametrize(
    ("scope", "read", "write", "delete"),
    [
        ("source", 200, 403, 403),
        ("source:r", 200, 403, 403),
        ("source:w", 200, 201, 403),
        ("source:d", 200, 201, 204),
        ("wildcard", 200, 403, 403),
        ("wildcard:w", 200, 201, 403),
        ("profile wildcard:d", 200, 201, 204),
        ("profile", 403, 403, 403),
        ("metric_source:d", 403, 403, 403),
    ],
)
def test_a_scope_allows_so_much_and_no_more(
    standin: StandIn, client: AppClient, scope: str, read: int, write: int, delete: int
) -> None:
    mine = token(standin, scope)
    id = client.api("GET", "alert-sources", token(standin, "source")).json()[0]["id"]
    one = f"alert-sources/{id}"
    assert client.api("GET", "alert-sources", mine).status_code == read
    assert client.api("GET", one, mine).status_code == read
    assert client.api("POST", "alert-sources", mine, NEW_SOURCE).status_code == write
    assert client.api("PUT", one, mine, NEW_SOURCE).status_code == (200 if write == 201 else 403)
    assert client.api("DELETE", one, mine).status_code == delete


def test_the_profile_needs_its_scope(standin: StandIn, client: AppClient) -> None:
    response = client.api("GET", "users/current", token(standin, "source:d user:d"))
    assert rest_error(response) == (403, "FORBIDDEN")


def test_an_alert_source_is_made_changed_and_deleted(standin: StandIn, client: AppClient) -> None:
    mine = token(standin, "source:d")
    made = client.api("POST", "alert-sources", mine, NEW_SOURCE).json()
    one = f"alert-sources/{made['id']}"
    assert client.api("GET", one, mine).json() == made
    changed = client.api("PUT", one, mine, {**NEW_SOURCE, "id": 1, "name": "Renamed"}).json()
    assert changed == {**made, "name": "Renamed"}
    assert client.api("DELETE", one, mine).status_code == 204
    assert rest_error(client.api("GET", one, mine)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("body", [None, [], {}, {"name": "Shop"}])
def test_an_alert_source_needs_its_fields(
    standin: StandIn, client: AppClient, body: object
) -> None:
    response = client.api("POST", "alert-sources", token(standin, "source:w"), body)
    assert rest_error(response) == (400, "BAD_REQUEST")


def test_tenants_do_not_see_each_others_alert_sources(standin: StandIn, client: AppClient) -> None:
    acme, globex = token(standin, "source:w"), token(standin, "source", "globex")
    made = client.api("POST", "alert-sources", acme, NEW_SOURCE).json()
    assert client.api("GET", f"alert-sources/{made['id']}", globex).status_code == 404


def test_lists_come_in_pages_of_fifty_at_most(standin: StandIn, client: AppClient) -> None:
    mine = token(standin, "source:w", "new-tenant")
    made = [client.api("POST", "alert-sources", mine, NEW_SOURCE).json()["id"] for _ in range(52)]

    def page(query: str = "") -> list[int]:
        listed = client.api("GET", f"alert-sources{query}", mine).json()
        return [source["id"] for source in listed]

    assert page() == made[:50]
    assert page("?max-results=100") == made[:50]
    assert page("?start-index=50") == made[50:]
    assert page("?start-index=10&max-results=3") == made[10:13]
    assert page("?start-index=52") == []


@pytest.mark.parametrize("query", ["start-index=-1", "max-results=many", "start-index="])
def test_a_page_that_is_no_number_is_refused(
    standin: StandIn, client: AppClient, query: str
) -> None:
    response = client.api("GET", f"alert-sources?{query}", token(standin, "source"))
    assert rest_error(response) == (400, "BAD_REQUEST")


def test_what_is_not_there_is_a_rest_error(client: AppClient) -> None:
    assert rest_error(client.api("GET", "nothing")) == (404, "NOT_FOUND")
    assert rest_error(client.api("POST", "users/current")) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("path", "scope", "sizes"),
    [
        ("alerts", "alert", (3, 3)),
        ("schedules", "schedule", (20, 3)),
        ("users", "user", (2, 2)),
    ],
)
def test_collections_are_read_with_their_scope_and_in_pages_of_their_own(
    standin: StandIn, client: AppClient, path: str, scope: str, sizes: tuple[int, int]
) -> None:
    mine = token(standin, scope)
    items = client.api("GET", f"{path}?max-results=1000", mine).json()
    assert (len(items), len(client.api("GET", f"{path}?max-results=3", mine).json())) == sizes
    assert client.api("GET", f"{path}/{items[0]['id']}", mine).json() == items[0]
    assert rest_error(client.api("GET", f"{path}/999999", mine)) == (404, "NOT_FOUND")
    assert rest_error(client.api("GET", path, token(standin, "profile"))) == (403, "FORBIDDEN")
    assert rest_error(client.api("DELETE", path, mine)) == (405, "METHOD_NOT_ALLOWED")


def test_a_tenant_without_known_people_has_nobody_on_call(
    standin: StandIn, client: AppClient
) -> None:
    mine = token(standin, "schedule user", "new-tenant")
    assert client.api("GET", "users", mine).json() == []
    assert {str(each["user"]) for each in client.api("GET", "on-calls", mine).json()} == {"{}"}
