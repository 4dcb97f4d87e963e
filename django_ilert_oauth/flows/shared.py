"""One account object that several threads or tasks use at once.

A renewal writes to the object's columns while it runs. Here it runs on a copy, and what has changed
is taken over in one go: a reader meets the old token or the new one, never a mixture.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django_ilert_oauth import crypto
from django_ilert_oauth.conf import conf
from django_ilert_oauth.models import ConnectedAccount
from django_ilert_oauth.secret import Secret

from .base import columns, require_same_ilert
from .renewal import GRANT_COLUMNS

_guard = threading.Lock()


def fresh_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> Secret | None:
    """The stored token if it is good for longer than the margin; without a query or a request."""
    require_same_ilert(account)
    wanted_margin = conf.refresh_margin if margin is None else margin
    # Deferred columns are read here: a query is not to be made under the lock.
    is_fresh, _identity = account.is_fresh(wanted_margin), account.identity
    if not is_fresh:
        return None
    with _guard:
        ciphertext, identity = account.access_token_ciphertext, account.identity
    return crypto.decrypt(ciphertext, identity) if ciphertext else None


@contextmanager
def own_copy(account: ConnectedAccount) -> Iterator[ConnectedAccount]:
    with _guard:
        mine = copy.copy(account)
    before = columns(mine, GRANT_COLUMNS)
    try:
        yield mine
    finally:
        with _guard:
            # The token comes before its expiry, by which a site's own readers judge it.
            for name, value in columns(mine, GRANT_COLUMNS).items():
                if value != before[name]:
                    setattr(account, name, value)
