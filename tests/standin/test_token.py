import json
from pathlib import Path

import jwt
import pytest

from ilert_standin import StandIn
from tests.support.app_client import OAUTH, REDIRECT_URI, VERIFIER, AppClient, Clock, oauth_error

SEED = json.loads(Path(__file__).with_name("seed_response.json").read_text())


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_the_response_has_the_shape_of_the_seed_guide(client: AppClient) -> None:
    tokens = client.connect()
    assert list(tokens) == list(SEED)
    for name in ("token_type", "expires_in", "scope", "refresh_token_expires_in"):
        assert tokens[name] == SEED[name]


def test_the_access_token_is_a_jwt_like_ilerts(client: AppClient, clock: Clock) -> None:
    token = client.connect()["access_token"]
    claims = claims_of(token)
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
    assert claims.keys() - {"jti"} == claims_of(SEED["access_token"]).keys()
    assert (claims["il_n"], claims["il_u"]) == ("acme", "grace")
    assert (claims["il_t"], claims["il_v"], claims["iss"]) == ("ACCESS", 1, "ilert")
    assert claims["exp"] == clock.now + 3600
    assert 500 <= len(token) <= 700


def test_the_refresh_token_is_a_jwt_like_ilerts(client: AppClient) -> None:
    token = client.connect()["refresh_token"]
    claims = claims_of(token)
    seed = claims_of(SEED["refresh_token"])
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert claims.keys() == seed.keys()
    assert (claims["il_t"], claims["il_v"]) == (seed["il_t"], seed["il_v"])


def test_the_seed_guides_own_requests_work(standin: StandIn, client: AppClient) -> None:
    uri = "http://localhost:4597/authorize-result"
    standin.options.redirect_uris = [uri]
    code = client.code(
        redirect_uri=uri, state="optional-state", code_challenge=None, code_challenge_method=None
    )
    tokens = client.exchange(code, code_verifier=None).json()
    assert client.refresh(tokens["refresh_token"]).status_code == 200
    assert client.post("revoke", {"token": tokens["refresh_token"]}).status_code == 200


def test_the_seed_guides_own_tokens_are_unknown(client: AppClient) -> None:
    assert oauth_error(client.refresh(SEED["refresh_token"])) == (401, "invalid_grant")
    assert client.token_info(SEED["access_token"]) == {"active": False}


def test_a_code_works_once(client: AppClient) -> None:
    code = client.code()
    assert client.exchange(code).status_code == 200
    response = client.exchange(code)
    assert oauth_error(response) == (401, "invalid_grant")
    assert response.json()["error"] == "Provided code is unknown"


def test_a_code_lives_two_minutes(client: AppClient, clock: Clock) -> None:
    early, late = client.code(), client.code()
    clock.advance(119)
    assert client.exchange(early).status_code == 200
    clock.advance(1)
    assert oauth_error(client.exchange(late)) == (401, "invalid_grant")


@pytest.mark.parametrize("verifier", [None, "", "wrong" * 10, "ü" * 43, VERIFIER[:-1]])
def test_a_code_needs_the_verifier_of_its_challenge_and_is_used_up_by_a_wrong_one(
    client: AppClient, verifier: str | None
) -> None:
    code = client.code()
    response = client.exchange(code, code_verifier=verifier)
    assert oauth_error(response) == (401, "invalid_grant")
    assert client.exchange(code).status_code == 401


def test_a_verifier_without_a_challenge_is_refused(client: AppClient) -> None:
    code = client.code(code_challenge=None, code_challenge_method=None)
    assert oauth_error(client.exchange(code)) == (401, "invalid_grant")


@pytest.mark.parametrize("changes", [{"client_secret": "wrong"}, {"client_id": "wrong"}])
def test_wrong_client_credentials_look_like_invalid_grant_and_cost_nothing(
    client: AppClient, changes: dict[str, str | None]
) -> None:
    code = client.code()
    assert oauth_error(client.exchange(code, **changes)) == (401, "invalid_grant")
    tokens = client.exchange(code).json()
    refused = client.refresh(tokens["refresh_token"], **changes)
    assert oauth_error(refused) == (401, "invalid_grant")
    assert client.refresh(tokens["refresh_token"]).status_code == 200


def test_without_secret_and_challenge_a_code_is_worth_nothing(client: AppClient) -> None:
    code = client.code(code_challenge=None, code_challenge_method=None)
    response = client.exchange(code, client_secret=None, code_verifier=None)
    assert oauth_error(response) == (400, "invalid_request")


def test_pkce_alone_brings_no_refresh_token(client: AppClient) -> None:
    tokens = client.exchange(client.code(), client_secret=None).json()
    assert "access_token" in tokens
    assert "refresh_token" not in tokens


def test_pkce_alone_brings_a_refresh_token_with_offline_access(client: AppClient) -> None:
    code = client.code(scope="profile offline_access")
    tokens = client.exchange(code, client_secret=None).json()
    assert client.refresh(tokens["refresh_token"], client_secret=None).status_code == 200


def test_a_refresh_token_got_with_the_secret_needs_the_secret(client: AppClient) -> None:
    token = client.connect()["refresh_token"]
    response = client.refresh(token, client_secret=None)
    assert oauth_error(response) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["grant_type", "code", "client_id"])
def test_a_missing_parameter_is_an_invalid_request(client: AppClient, name: str) -> None:
    response = client.exchange(client.code(), **{name: None})
    assert oauth_error(response) == (400, "invalid_request")


def test_another_grant_type_is_not_supported(client: AppClient) -> None:
    response = client.exchange(client.code(), grant_type="password")
    assert oauth_error(response) == (400, "unsupported_grant_type")


@pytest.mark.parametrize("endpoint", ["token", "token_info", "revoke"])
def test_only_forms_and_posts_are_accepted(client: AppClient, endpoint: str) -> None:
    url = f"{client.base_url}{OAUTH}/{endpoint}"
    assert oauth_error(client.http.post(url, json={"token": "x"})) == (400, "invalid_request")
    assert client.http.get(url).status_code == 405


@pytest.mark.parametrize("endpoint", ["token_info", "revoke"])
def test_a_token_in_the_query_string_is_not_read(client: AppClient, endpoint: str) -> None:
    response = client.post(f"{endpoint}?token=x", {"other": "y"})
    assert oauth_error(response) == (400, "invalid_request")


def test_a_refresh_brings_an_access_token_and_keeps_the_refresh_token(client: AppClient) -> None:
    tokens = client.connect()
    body = client.refresh(tokens["refresh_token"]).json()
    assert body.keys() == {"token_type", "access_token", "expires_in", "scope"}
    assert body["access_token"] != tokens["access_token"]
    assert body["scope"] == tokens["scope"]
    assert client.refresh(tokens["refresh_token"]).status_code == 200


def test_with_rotation_the_old_refresh_token_is_dead_at_once(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.rotate = True
    old = client.connect()["refresh_token"]
    body = client.refresh(old).json()
    assert list(body) == list(SEED)
    assert oauth_error(client.refresh(old)) == (401, "invalid_grant")
    assert client.refresh(body["refresh_token"]).status_code == 200
    assert standin.live_refresh_tokens("acme", "grace") == 1


def test_an_access_token_lives_an_hour(client: AppClient, clock: Clock) -> None:
    token = client.connect()["access_token"]
    clock.advance(3599)
    assert client.api("GET", "users/current", token).status_code == 200
    clock.advance(1)
    assert client.api("GET", "users/current", token).status_code == 401
    assert client.token_info(token) == {"active": False}


def test_a_refresh_token_lives_a_year(client: AppClient, clock: Clock) -> None:
    token = client.connect()["refresh_token"]
    clock.advance(31_536_000 - 1)
    assert client.refresh(token).status_code == 200
    clock.advance(1)
    assert oauth_error(client.refresh(token)) == (401, "invalid_grant")


def test_a_refresh_token_that_never_expires_says_nothing_of_it(
    standin: StandIn, client: AppClient, clock: Clock
) -> None:
    standin.options.refresh_token_lifetime = None
    tokens = client.connect()
    assert "refresh_token_expires_in" not in tokens
    assert "exp" not in claims_of(tokens["refresh_token"])
    clock.advance(10 * 31_536_000)
    assert client.refresh(tokens["refresh_token"]).status_code == 200


def test_lifetimes_can_be_chosen(standin: StandIn, client: AppClient) -> None:
    standin.options.access_token_lifetime = 5
    standin.options.refresh_token_lifetime = 50
    tokens = client.connect()
    assert (tokens["expires_in"], tokens["refresh_token_expires_in"]) == (5, 50)


def test_the_eleventh_refresh_token_silently_drops_the_oldest(
    standin: StandIn, client: AppClient
) -> None:
    tokens = [client.connect()["refresh_token"] for _ in range(11)]
    others = client.connect("globex", "grace")["refresh_token"]
    assert standin.live_refresh_tokens("acme", "grace") == 10
    assert oauth_error(client.refresh(tokens[0])) == (401, "invalid_grant")
    for token in (tokens[1], tokens[10], others):
        assert client.refresh(token).status_code == 200


def test_token_info_tells_whose_an_access_token_is(client: AppClient) -> None:
    tokens = client.connect("globex", "grace")
    assert client.token_info(tokens["access_token"]) == {
        "active": True,
        "tenant_id": "globex",
        "username": "grace",
        "scope": "profile source:w",
        "app_id": 250,
    }


def test_token_info_takes_access_tokens_alone(client: AppClient) -> None:
    assert client.token_info(client.connect()["refresh_token"]) == {"active": False}


def test_a_revoked_refresh_token_is_dead_while_its_access_token_lives_on(client: AppClient) -> None:
    tokens = client.connect()
    assert client.post("revoke", {"token": tokens["refresh_token"]}).status_code == 200
    assert oauth_error(client.refresh(tokens["refresh_token"])) == (401, "invalid_grant")
    assert client.api("GET", "users/current", tokens["access_token"]).status_code == 200


def test_revoking_one_refresh_token_leaves_the_users_others(
    standin: StandIn, client: AppClient
) -> None:
    first, second = client.connect(), client.connect()
    client.post("revoke", {"token": first["refresh_token"]})
    assert standin.live_refresh_tokens("acme", "grace") == 1
    assert client.refresh(second["refresh_token"]).status_code == 200


def test_revoking_an_unknown_token_says_nothing(client: AppClient) -> None:
    response = client.post("revoke", {"token": "unknown"})
    assert (response.status_code, response.text) == (200, "")


def test_an_access_token_cannot_be_revoked(client: AppClient) -> None:
    token = client.connect()["access_token"]
    assert client.post("revoke", {"token": token}).status_code == 200
    assert client.api("GET", "users/current", token).status_code == 200


def test_the_token_request_needs_no_redirect_uri_and_ignores_one(client: AppClient) -> None:
    assert client.exchange(client.code(), redirect_uri=REDIRECT_URI).status_code == 200
