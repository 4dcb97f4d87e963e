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
from tests.support.programs.child import Child, Surroundings, running
from tests.support.secret_search import without_header

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
    with running(_carry_out, Surroundings(), order) as child:
        assert child.hear() == "done"
        child.tell({without_header(secret)[::-1]: name for secret, name in secrets().items()})
        left: list[str] = child.hear()
        return left


def _carry_out(parent: Child, surroundings: Surroundings, order: Order) -> None:
    surroundings.apply()
    # Whatever comes of it: what is raised is searched elsewhere.
    with suppress(Exception):
        VERBS[order.verb](order)
    order.url = ""
    gc.collect()
    parent.tell("done")
    parent.tell(sorted(set(_found(parent.hear()))))


def _found(secrets: dict[str, str]) -> Iterator[str]:
    """Whichever holds one of the blocks holds a piece of two blocks' length, at the most."""
    texts = [(owner, text[::-1]) for owner, text in _texts()]
    everything = "\n".join(text for _owner, text in texts)
    for secret, name in secrets.items():
        for start in range(0, len(secret) - BLOCK, BLOCK):
            block = secret[start : start + BLOCK]
            if block in everything:
                yield from (f"{owner}: {name}" for owner, text in texts if block in text)


def _texts() -> Iterator[tuple[str, str]]:
    """Every string in memory, and what refers to it."""
    exempt = {id(owner) for owner in _exempt()}
    waiting = [(type(owner).__name__, owner) for owner in (*gc.get_objects(), *_locals())]
    for name, owner in waiting:
        for part in gc.get_referents(owner) if id(owner) not in exempt else ():
            if isinstance(part, str):
                yield name, str(part)
            elif isinstance(part, bytes | bytearray):
                yield name, part.decode("latin-1")
            elif type(part) in (dict, tuple) and not gc.is_tracked(part):
                waiting.append((f"{name}, {type(part).__name__}", part))


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
