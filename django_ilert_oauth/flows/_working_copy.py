"""One account object that several threads or tasks use at once.

A refresh writes to the object's columns while it runs. Here it runs on a copy, and what has changed
is taken over in one go: a reader meets the old token or the new one, never a mixture.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django_ilert_oauth.conf import conf
from django_ilert_oauth.internal import crypto
from django_ilert_oauth.internal.rows import columns
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.oauth.secret import Secret

from ._client import require_client
from ._lease import SEEN_COLUMNS

#: A set, since each call for a token compares it.
_SEEN = frozenset(SEEN_COLUMNS)

_guard = threading.Lock()
# A child must not find it held by a thread that it does not have. Not every platform forks.
getattr(os, "register_at_fork", lambda **_: None)(
    before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release
)


def fresh_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> Secret | None:
    """The stored token if it is good for longer than the margin; without a query or a request."""
    _complete(account)
    require_client(account)
    wanted_margin = conf.refresh_margin if margin is None else margin
    is_fresh, place = account.is_fresh(wanted_margin), account.place_of("access_token")
    if not is_fresh:
        return None
    with _guard:
        ciphertext = account.access_token_ciphertext
    return crypto.decrypt(ciphertext, place) if ciphertext else None


@contextmanager
def working_copy(account: ConnectedAccount) -> Iterator[ConnectedAccount]:
    _complete(account)
    with _guard:
        mine = copy.copy(account)
    before = columns(mine, SEEN_COLUMNS)
    try:
        yield mine
    finally:
        after = columns(mine, SEEN_COLUMNS)
        with _guard:
            # The token comes before its expiry, by which a site's own readers judge it.
            account.take_stored({n: value for n, value in after.items() if value != before[n]})


def _complete(account: ConnectedAccount) -> None:
    """Reads deferred columns at once: one by one, they may be of two tokens.

    Also because no query is to be made under the lock.
    """
    if not vars(account).keys() >= _SEEN:
        account.refresh_from_db(fields=SEEN_COLUMNS)
