"""Every list that ilert has, read completely: on the stand-in, and page by page on the kit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User

from django_ilert_oauth.api import pagination
from django_ilert_oauth.exceptions import IlertHTTPError, IlertScopeError
from django_ilert_oauth.session import IlertSession
from django_ilert_oauth.testing import FakeIlert, connected_account
from ilert_standin import Fault, StandIn
from ilert_standin.lists import LISTS
from tests.conftest import AccountFactory

WITH_INCLUDE = [name for name, listing in LISTS.items() if listing.largest_with_include]
PATH = "/api/things"


@pytest.fixture
def session(make_account: AccountFactory, ilert: StandIn) -> Iterator[IlertSession]:
    """Its token may read everything."""
    ilert.options.alert_sources = LISTS["alert-sources"].largest_page + 3
    with IlertSession(make_account(granted_scope="wildcard")) as session:
        yield session


def path_of(name: str, session: IlertSession) -> str:
    """With the id of something that is there."""
    parent, has_id, _ = name.partition("/{id}")
    if has_id:
        name = name.replace("{id}", str(next(session.list(f"/api/{parent}"))["id"]))
    return f"/api/{name}"


def complete_list(name: str, session: IlertSession) -> list[Any]:
    """By pages of the largest size, and with no help from ``list``."""
    path, size = path_of(name, session), LISTS[name].largest_page
    first = session.get(path, params={"max-results": size})
    place = {"cursor": first.headers.get("next-cursor"), "start-index": size}
    rest = session.get(path, params={"max-results": size, **place})
    assert len(first.json()) == size
    assert 0 < len(rest.json()) < size
    return [*first.json(), *rest.json()]


@pytest.mark.parametrize("name", LISTS)
def test_each_of_ilerts_lists_is_read_completely(session: IlertSession, name: str) -> None:
    assert list(session.list(path_of(name, session))) == complete_list(name, session)


@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("name", LISTS)
def test_each_is_read_completely_by_pages_of_the_callers_size(
    session: IlertSession, name: str, size: int
) -> None:
    items = list(session.list(path_of(name, session), **{"max-results": size}))
    assert items == complete_list(name, session)


@pytest.mark.parametrize("name", WITH_INCLUDE)
def test_each_is_read_completely_where_include_makes_pages_smaller(
    session: IlertSession, name: str
) -> None:
    items = list(session.list(f"/api/{name}", include=["subscribed", "uptime"]))
    assert items == complete_list(name, session)


def refused(ilert: StandIn) -> list[str]:
    return [request.query["max-results"] for request in ilert.requests if request.status == 400]


def test_the_largest_page_is_learnt_once_for_a_path_and_a_session(
    session: IlertSession, ilert: StandIn
) -> None:
    for _ in range(2):
        assert len(list(session.list("/api/schedules"))) == 23
    assert refused(ilert) == ["50"]
    with IlertSession(session.account) as another:
        next(another.list("/api/schedules"))
    assert refused(ilert) == ["50", "50"]


def test_the_largest_page_is_learnt_where_a_hook_raises_for_errors(session: IlertSession) -> None:
    session.hooks["response"].append(lambda response, **kwargs: response.raise_for_status())
    assert len(list(session.list("/api/schedules"))) == 23


def test_the_largest_page_with_include_is_that_of_no_other_call(
    session: IlertSession, ilert: StandIn
) -> None:
    for _ in range(2):
        next(session.list("/api/services", include="uptime"))
        next(session.list("/api/services"))
    sizes = [request.query["max-results"] for request in ilert.requests]
    assert sizes == ["50", "25", "50", "25", "50"]


def test_the_largest_page_that_was_learnt_makes_no_page_larger(
    session: IlertSession, ilert: StandIn
) -> None:
    for size in (50, 15):
        list(session.list("/api/schedules", **{"max-results": size}))
    sizes = [request.query["max-results"] for request in ilert.requests]
    assert sizes == ["50", "20", "20", "15", "15"]


def test_a_list_that_pages_by_cursor_is_followed_by_its_cursor(
    session: IlertSession, ilert: StandIn
) -> None:
    items = list(session.list("/api/heartbeat-monitors", **{"max-results": 100}))
    queries = [dict(request.query) for request in ilert.requests]
    assert [query.get("cursor") for query in queries] == [
        None,
        f"after-{items[99]['id']}",
        f"after-{items[199]['id']}",
    ]
    assert ["start-index" in query for query in queries] == [True, False, False]


def test_the_list_may_begin_later(session: IlertSession, ilert: StandIn) -> None:
    items = list(session.list("/api/alert-sources", **{"start-index": 5, "max-results": 25}))
    assert len(items) == 48
    assert [request.query["start-index"] for request in ilert.requests] == ["5", "30"]


def test_pages_are_fetched_as_they_are_asked_for(session: IlertSession, ilert: StandIn) -> None:
    items = session.list("/api/alert-sources")
    assert ilert.requests == []
    next(items)
    assert len(ilert.requests) == 1


def test_a_list_without_its_scope_names_the_scope(make_account: AccountFactory) -> None:
    session = IlertSession(make_account(granted_scope="profile"))
    with session, pytest.raises(IlertScopeError) as raised:
        next(session.list("/api/alert-sources"))
    assert raised.value.missing_scopes == ["source"]


def test_a_page_of_a_gateway_is_called_not_from_ilert(
    session: IlertSession, ilert: StandIn
) -> None:
    ilert.add_fault("alert-sources", Fault(200, "<p>private", {"Content-Type": "text/html"}))
    with pytest.raises(requests.RequestException, match="is not from ilert") as raised:
        next(session.list("/api/alert-sources"))
    assert "private" not in repr(vars(raised.value)) + repr(raised.value.__context__)


@pytest.fixture
def kit(user: User, fake_ilert: FakeIlert) -> Iterator[IlertSession]:
    with IlertSession(connected_account(user)) as session:
        yield session


def give(ilert: FakeIlert, *pages: Any, **response: Any) -> None:
    """No page comes after these."""
    for page in pages:
        ilert.answer("GET", PATH, json=page, times=1, **response)


def ids(*numbers: int) -> list[dict[str, int]]:
    return [{"id": number} for number in numbers]


def read(session: IlertSession, size: int = 2, **params: Any) -> list[Any]:
    return list(islice(session.list(PATH, **{"max-results": size}, **params), 20))


@pytest.mark.parametrize("pages", [[ids()], [ids(1)], [ids(1, 2), ids()], [ids(1, 2), ids(3)]])
def test_a_page_that_is_not_full_is_the_last(
    kit: IlertSession, fake_ilert: FakeIlert, pages: list[Any]
) -> None:
    give(fake_ilert, *pages)
    assert read(kit) == [item for page in pages for item in page]
    assert len(fake_ilert.requests) == len(pages)


def test_a_page_that_is_not_full_is_not_the_last_where_a_cursor_leads_on(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1), headers={"next-cursor": "a"})
    give(fake_ilert, ids(2, 3))
    assert read(kit) == ids(1, 2, 3)


def test_a_server_that_ignores_the_start_index_is_not_asked_for_ever(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1, 2, 3), ids(1, 2, 3))
    assert read(kit) == ids(1, 2, 3)


def test_a_cursor_that_leads_nowhere_is_not_followed_for_ever(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1, 2), ids(1, 2), headers={"next-cursor": "same"})
    assert read(kit) == ids(1, 2)


def test_pages_that_come_round_again_are_not_fetched_for_ever(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1, 2), ids(3, 4), ids(1, 2))
    assert read(kit) == ids(1, 2, 3, 4)


def test_a_list_that_changes_and_ignores_the_start_is_not_fetched_for_ever(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    ages = count()
    give(fake_ilert, *[[{"id": 1, "age": next(ages)}, {"id": 2}] for _ in range(2)])
    assert [item["id"] for item in read(kit)] == [1, 2]


def test_new_items_that_never_end_are_not_fetched_for_ever(
    kit: IlertSession, fake_ilert: FakeIlert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pagination, "MAX_PAGES", 3)
    give(fake_ilert, ids(1), ids(2), ids(3))
    items = kit.list(PATH, **{"max-results": 1})
    assert [next(items)["id"] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(requests.RequestException, match="/api/things has not ended after 3"):
        next(items)


def test_an_item_that_moves_to_the_next_page_meanwhile_comes_once(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1, 2), ids(2, 3), ids())
    assert read(kit) == ids(1, 2, 3)


def test_an_item_that_comes_twice_on_one_page_is_listed_once(
    kit: IlertSession, fake_ilert: FakeIlert
) -> None:
    give(fake_ilert, ids(1, 1), ids())
    assert read(kit) == ids(1)


@pytest.mark.parametrize(
    "pages",
    [
        [["a", "b"], ["c", "b"], ["a"]],
        [[{"user": "grace"}, {"user": "ada"}], [{"user": "ada"}, {"user": "linus"}], []],
        [[{"id": None, "user": "a"}, {"id": None, "user": "b"}], [{"id": None, "user": "c"}]],
        [[1, None], [None, 2], [1]],
    ],
)
def test_items_without_an_id_are_distinguished_by_what_they_are(
    kit: IlertSession, fake_ilert: FakeIlert, pages: list[Any]
) -> None:
    give(fake_ilert, *pages)
    items = read(kit)
    assert len(items) == len({json.dumps(item) for item in items}) == 3


@pytest.mark.parametrize(
    "message",
    [
        "'max-results' must not be above 2",
        "'max-results' must not be above 0",
        "'max-results' must not be above -1",
        "'start-index' must not be negative",
    ],
)
def test_an_error_that_asks_for_no_smaller_page_is_raised(
    kit: IlertSession, fake_ilert: FakeIlert, message: str
) -> None:
    give(fake_ilert, {"message": message}, status=400)
    with pytest.raises(IlertHTTPError) as raised:
        read(kit)
    assert raised.value.message == message


def test_a_list_takes_the_parameters_of_the_query_only(kit: IlertSession) -> None:
    with pytest.raises(TypeError, match=r"not those of requests: \['params', 'timeout'\]"):
        kit.list("/api/alerts", params={"state": "OPEN"}, timeout=3)
    with pytest.raises(ValueError, match="as keywords, not in the path"):
        kit.list("/api/alerts?state=OPEN")


@pytest.mark.parametrize("body", [{"id": 1}, {}, "text", 7, False])
def test_what_is_no_list_is_named_as_such(
    kit: IlertSession, fake_ilert: FakeIlert, body: object
) -> None:
    give(fake_ilert, body)
    with pytest.raises(requests.RequestException) as raised:
        read(kit, summary="private")
    assert str(raised.value) == "The response to /api/things is no list: read it by get()."


def test_other_parameters_go_with_every_page(kit: IlertSession, fake_ilert: FakeIlert) -> None:
    give(fake_ilert, ids(1, 2), ids(3))
    read(kit, state=["OPEN", "NEW"])
    states = [request.query.getlist("state") for request in fake_ilert.requests]
    assert states == [["OPEN", "NEW"]] * 2
