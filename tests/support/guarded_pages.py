"""Every response of views that need an account, and of the page on which one is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import User
from django.test import Client

from django_ilert_oauth.models import ConnectedAccount, Status
from site_browser import Page

if TYPE_CHECKING:
    from tests.support.watched_site import World

CHOOSE, GUARDED, WANTS_MORE, TAGS = "/ilert/choose/", "/guarded/", "/guarded/more/", "/tags/"
JSON = {"Accept": "application/json"}


def look_at_guarded_pages(world: World) -> None:
    for path in (GUARDED, WANTS_MORE, TAGS):
        world.visit(world.browser.get(path))
    others = [world.make_account(username=name) for name in ("ada", "alan")]
    _look_at_choice(world, others[0])
    _look_at_request_for_more(world)
    _look_at_people_without_access(world)


def _look_at_choice(world: World, chosen: ConnectedAccount) -> None:
    _refused(world, world.browser, GUARDED, 403, "account_choice_required")
    sent = _visited(world, world.browser.get(GUARDED), 302)
    page = _visited(world, world.browser.get(sent["Location"]), 200)
    form = Page(CHOOSE, page.content.decode()).form(CHOOSE)
    choice = form.fields | {"account": str(chosen.pk)}
    _visited(world, world.browser.post(CHOOSE, choice), 302)
    _visited(world, world.browser.get(GUARDED), 200)
    _visited(world, world.browser.get(TAGS), 200)


def _look_at_request_for_more(world: World) -> None:
    """First of who was never asked, then of who granted less."""
    _refused(world, world.browser, WANTS_MORE, 403, "insufficient_scope")
    sent = _visited(world, world.browser.get(WANTS_MORE), 302)
    _visited(world, world.browser.get(sent["Location"]), 200)
    ConnectedAccount.objects.update(requested_scope="profile source:w alert:w")
    _visited(world, world.browser.get(WANTS_MORE), 403)


def _look_at_people_without_access(world: World) -> None:
    ConnectedAccount.objects.update(status=Status.RECONNECT_REQUIRED)
    _refused(world, world.browser, GUARDED, 401, "reconnect_required")
    newcomer = Client()
    _refused(world, newcomer, GUARDED, 401, "login_required")
    newcomer.force_login(User.objects.create_user("newcomer"))
    _refused(world, newcomer, GUARDED, 401, "account_required")
    for browser in (world.browser, newcomer):
        _visited(world, browser.get(GUARDED), 302)
        _visited(world, browser.get(TAGS), 200)


def _refused(world: World, browser: Client, path: str, status: int, error: str) -> None:
    response: Any = browser.get(path, headers=JSON)
    assert _visited(world, response, status).json()["error"] == error


def _visited(world: World, response: Any, status: int) -> Any:
    assert response.status_code == status
    world.visit(response)
    return response
