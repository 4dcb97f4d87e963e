"""A process that does one thing with an account, and then says what in it still holds a secret.

It is told the secrets only afterwards, and backwards, so that it does not find them in itself.
What it leaves out:

- the closures of ``Secret``: there a secret is out of reach of whatever lists what objects hold;
- Django's settings, where the site itself has put the client secret and the encryption keys.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from django.conf import settings
from django.test import Client

from django_ilert_oauth import flows
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret
from django_ilert_oauth.session import IlertSession
from tests.support.secret_search import without_header
from tests.support.site_processes import site_process, wait_at

#: Characters: so few of a secret do not turn up by chance.
BLOCK = 8
#: Left behind by a test that shows that the search finds something.
left_behind: list[object] = []


@dataclass
class Order:
    verb: str
    pk: int
    cookies: str = ""
    url: str = ""


def use(order: Order) -> None:
    session = IlertSession(_account(order), max_wait=0)
    left_behind.append(session)
    session.get("/api/users/current").raise_for_status()


def open_page(order: Order) -> None:
    browser = Client(raise_request_exception=False)
    browser.cookies.load(order.cookies)
    path, _, query = order.url.partition("?")
    # Not as a part of the address, which urllib.parse would keep in a cache.
    browser.get(path, QUERY_STRING=query)


def leave_in_closure(order: Order) -> None:
    token = flows.get_access_token(_account(order))
    left_behind.append(lambda: token)


def leave_in_generator(order: Order) -> None:
    def generate(token: str) -> Iterator[str]:
        yield token[:1]
        yield token

    generator = generate(flows.get_access_token(_account(order)))
    next(generator)
    left_behind.append(generator)


def leave_in_headers(order: Order) -> None:
    token = flows.get_access_token(_account(order))
    left_behind.append({"headers": ({"Authorization": f"Bearer {token}".encode()},)})


VERBS: dict[str, Callable[[Order], object]] = {
    "get_access_token": lambda order: flows.get_access_token(_account(order)),
    "refresh": lambda order: flows.refresh(_account(order), force=True),
    "refresh_many": lambda order: flows.refresh_many(ConnectedAccount.objects.all(), force=True),
    "check": lambda order: flows.check(_account(order)),
    "disconnect": lambda order: flows.disconnect(_account(order)),
    "use": use,
    "callback": open_page,
    "a closure": leave_in_closure,
    "a generator": leave_in_generator,
    "headers": leave_in_headers,
}


def left_after(order: Order, secrets: Callable[[], dict[str, str]]) -> list[str]:
    """What still holds a secret once the verb is done; ``secrets`` tells them by then."""
    with site_process(_carry_out, order) as process:
        process.go().until("done")
        process.go({without_header(secret)[::-1]: name for secret, name in secrets().items()})
        left: list[str] = process.result()
        return left


def _carry_out(order: Order) -> list[str]:
    # Whatever comes of it: what is raised is searched elsewhere.
    with suppress(Exception):
        VERBS[order.verb](order)
    order.url = ""
    gc.collect()
    return sorted(set(_found(wait_at("done"))))


def _found(secrets: dict[str, str]) -> Iterator[str]:
    """Whichever holds one of the blocks holds a piece of at most two blocks' length."""
    texts = {text[::-1] for text in _texts()}
    everything = "\n".join(texts)
    for secret, name in secrets.items():
        for start in range(0, len(secret) - BLOCK, BLOCK):
            block = secret[start : start + BLOCK]
            if block in everything:
                yield from (f"{name} in {len(text)} characters" for text in texts if block in text)


def _texts() -> Iterator[str]:
    """Every string in memory."""
    exempt = {id(owner) for owner in _exempt()}
    held = gc.get_objects() + _locals()
    while held := gc.get_referents(*(owner for owner in held if id(owner) not in exempt)):
        yield from (part for part in held if type(part) is str and len(part) >= BLOCK)
        yield from (part.decode("latin-1") for part in held if isinstance(part, bytes | bytearray))
        held = [part for part in held if type(part) in (dict, tuple) and not gc.is_tracked(part)]


def _exempt() -> Iterator[object]:
    for made in gc.get_objects():
        if type(made) is types.FunctionType and made.__module__ == Secret.__module__:
            yield from made.__closure__ or ()
    lazy = vars(settings)
    wrapped = lazy["_wrapped"]
    # The objects, too: newer Pythons keep attributes in them, and not in a dictionary.
    yield from (settings, lazy, wrapped, vars(wrapped), settings.ILERT_OAUTH_ENCRYPTION_KEYS)


def _locals() -> list[object]:
    """Of all threads, this module's frames left out."""
    found: list[object] = []
    for frame in sys._current_frames().values():
        while frame:
            if frame.f_code.co_filename != __file__:
                found += [frame.f_locals]
            frame = frame.f_back  # type: ignore[assignment]
    return found


def _account(order: Order) -> ConnectedAccount:
    return ConnectedAccount.objects.get(pk=order.pk)
