"""What a test compares with what a site has stored: which grants live, and by which token."""

import pytest

from ilert_standin import StandIn
from tests.support.app_client import AppClient, Clock, oauth_error


@pytest.fixture
def rotating(standin: StandIn) -> StandIn:
    standin.options.rotate = True
    standin.options.detect_reuse = True
    return standin


def connect(standin: StandIn, tenant: str = "acme", username: str = "grace") -> str:
    return str(standin.issue_tokens(tenant, username)["refresh_token"])


def refresh(client: AppClient, token: str) -> str:
    return str(client.refresh(token).json()["refresh_token"])


def test_a_refresh_token_that_comes_again_ends_its_grant(
    rotating: StandIn, client: AppClient
) -> None:
    used = client.connect()["refresh_token"]
    live = refresh(client, used)
    assert oauth_error(client.refresh(used)) == (401, "invalid_grant")
    assert oauth_error(client.refresh(live)) == (401, "invalid_grant")
    assert rotating.live_refresh_tokens("acme", "grace") == 0


def test_any_token_since_the_connect_gives_the_reuse_away(
    rotating: StandIn, client: AppClient
) -> None:
    first = connect(rotating)
    live = refresh(client, refresh(client, refresh(client, first)))
    client.refresh(first)
    assert client.refresh(live).status_code == 401


def test_reuse_ends_one_grant_and_leaves_the_persons_others(
    rotating: StandIn, client: AppClient
) -> None:
    used, other = connect(rotating), connect(rotating)
    refresh(client, used)
    client.refresh(used)
    assert client.refresh(other).status_code == 200


def test_a_grant_that_ended_by_reuse_is_told_once(rotating: StandIn, client: AppClient) -> None:
    used = connect(rotating)
    refresh(client, used)
    assert rotating.lost_grants == []
    for _ in range(2):
        client.refresh(used)
    assert rotating.lost_grants == [rotating.grant_of(used)]


def test_without_detection_a_used_token_is_refused_and_the_grant_lives(
    rotating: StandIn, client: AppClient
) -> None:
    rotating.options.detect_reuse = False
    used = connect(rotating)
    live = refresh(client, used)
    assert client.refresh(used).status_code == 401
    assert client.refresh(live).status_code == 200


def test_without_rotation_a_token_is_never_used_up(rotating: StandIn, client: AppClient) -> None:
    rotating.options.rotate = False
    token = connect(rotating)
    assert [client.refresh(token).status_code for _ in range(3)] == [200] * 3


def test_a_token_that_expired_is_refused_and_not_called_reused(
    rotating: StandIn, client: AppClient, clock: Clock
) -> None:
    token = connect(rotating)
    clock.advance(31_536_000)
    assert client.refresh(token).status_code == 401
    assert rotating.lost_grants == []


def test_a_token_of_a_revoked_grant_is_refused_and_not_called_reused(
    rotating: StandIn, client: AppClient
) -> None:
    used = connect(rotating)
    refresh(client, used)
    rotating.revoke_app("acme", "grace")
    assert client.refresh(used).status_code == 401
    assert rotating.lost_grants == []


def test_the_access_token_of_a_grant_that_ended_works_on(
    rotating: StandIn, client: AppClient
) -> None:
    used = connect(rotating)
    access_token = client.refresh(used).json()["access_token"]
    client.refresh(used)
    assert client.api("GET", "users/current", access_token).status_code == 200


def test_the_ledger_has_the_live_token_of_each_grant(rotating: StandIn, client: AppClient) -> None:
    first, second = connect(rotating), connect(rotating, "globex", "linus")
    ids = [rotating.grant_of(token) for token in (first, second)]
    live = refresh(client, refresh(client, first))
    assert rotating.ledger() == dict(zip(ids, (live, second), strict=True))


def test_the_tokens_of_one_grant_share_its_id(rotating: StandIn, client: AppClient) -> None:
    used = connect(rotating)
    live = refresh(client, used)
    assert rotating.grant_of(used) == rotating.grant_of(live) != rotating.grant_of("unknown")
    assert rotating.grant_of("unknown") is None


def test_the_ledger_has_no_grant_that_ended(
    rotating: StandIn, client: AppClient, clock: Clock
) -> None:
    reused, revoked, _removed = (connect(rotating, "acme", name) for name in ("a", "b", "c"))
    refresh(client, reused)
    client.refresh(reused)
    client.post("revoke", {"token": revoked})
    rotating.revoke_app("acme", "c")
    assert rotating.ledger() == {}
    connect(rotating)
    clock.advance(31_536_000)
    assert rotating.ledger() == {}


def test_a_grant_of_pkce_alone_is_not_in_the_ledger(rotating: StandIn, client: AppClient) -> None:
    client.exchange(client.code(), client_secret=None)
    assert rotating.ledger() == {}


def test_revoking_one_token_can_end_all_grants_of_a_person(
    standin: StandIn, client: AppClient
) -> None:
    standin.options.revoke_ends_all = True
    superseded, new = connect(standin), client.connect()
    others = connect(standin, "globex", "grace")
    assert client.post("revoke", {"token": superseded}).status_code == 200
    assert client.refresh(new["refresh_token"]).status_code == 401
    assert client.token_info(new["access_token"]) == {"active": False}
    assert list(standin.ledger().values()) == [others]


def test_so_can_one_that_was_rotated_away(rotating: StandIn, client: AppClient) -> None:
    rotating.options.revoke_ends_all = True
    used = connect(rotating)
    refresh(client, used)
    client.post("revoke", {"token": used})
    assert rotating.ledger() == {}


def test_revoking_a_token_that_was_rotated_away_costs_nothing_else(
    rotating: StandIn, client: AppClient
) -> None:
    used = connect(rotating)
    live = refresh(client, used)
    assert client.post("revoke", {"token": used}).status_code == 200
    assert client.refresh(live).status_code == 200
