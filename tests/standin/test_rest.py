import pytest

from ilert_standin import Fault, StandIn
from ilert_standin.faults import parse_fault
from tests.support.app_client import AppClient, missing_scope, rest_error

NEW_SOURCE = {"name": "Shop", "integrationType": "API", "escalationPolicy": {"id": 1}}


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
    assert missing_scope(response) == "profile"


def test_a_403_names_the_scope_that_is_missing(standin: StandIn, client: AppClient) -> None:
    mine = token(standin, "profile")
    one = "alert-sources/1001"
    assert missing_scope(client.api("GET", one, mine)) == "source"
    assert missing_scope(client.api("POST", "alert-sources", mine, NEW_SOURCE)) == "source:w"
    assert missing_scope(client.api("PUT", one, mine, NEW_SOURCE)) == "source:w"
    assert missing_scope(client.api("DELETE", one, mine)) == "source:d"


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


def test_a_tenant_begins_with_as_many_alert_sources_as_wanted(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.alert_sources = 7
    sources = client.api("GET", "alert-sources", token(standin, "source")).json()
    assert len({source["name"] for source in sources}) == 7


@pytest.mark.parametrize("name", ["team-context", "x-team-context"])
def test_a_team_is_recorded_by_either_header(
    standin: StandIn, client: AppClient, name: str
) -> None:
    headers = {"Authorization": f"Bearer {token(standin, 'source')}", name: "-1"}
    url = f"{client.base_url}/api/alert-sources"
    assert client.http.get(url, headers=headers).status_code == 200
    assert standin.requests[0].headers[name.title()] == "-1"


def test_every_response_of_the_api_has_an_id_of_its_own(
    standin: StandIn, client: AppClient
) -> None:
    standin.add_fault("token", Fault(status=500))
    responses = [
        client.api("GET", "alert-sources", token(standin, "source")),
        client.api("GET", "alert-sources"),
        client.api("GET", "nothing"),
        client.refresh("unknown"),
        client.refresh("unknown"),
    ]
    assert len({response.headers["correlation-id"] for response in responses}) == len(responses)


def test_a_page_and_a_gateway_have_no_such_id(standin: StandIn, client: AppClient) -> None:
    standin.add_fault(*parse_fault("token:gateway"))
    for response in (client.open_authorize(), client.refresh("unknown")):
        assert "correlation-id" not in response.headers


@pytest.mark.parametrize("code", ["FEATURE_REQUIRED", "QUOTA_EXCEEDED"])
def test_a_plan_can_be_too_small(standin: StandIn, client: AppClient, code: str) -> None:
    standin.add_fault(*parse_fault(f"call-flows:{code}"))
    assert rest_error(client.api("GET", "call-flows", token(standin, "profile"))) == (402, code)


def test_what_is_not_there_is_a_rest_error(client: AppClient) -> None:
    assert rest_error(client.api("GET", "nothing")) == (404, "NOT_FOUND")
    assert rest_error(client.api("POST", "users/current")) == (405, "METHOD_NOT_ALLOWED")
