"""The flows that async views need, safe to await from any number of tasks.

What has to wait runs in Django's thread-sensitive thread, as the ORM's own async methods do: only
there are the caller's connection and transaction, and Django's ASGI handler gives each request such
a thread of its own and closes its connection. A task that is cancelled leaves the thread to finish,
so a response of ilert is stored all the same.
"""

from __future__ import annotations

from datetime import timedelta

from asgiref.sync import sync_to_async

from django_ilert_oauth.models import ConnectedAccount

from ._check import check
from ._disconnect import disconnect
from ._refresh import get_access_token, refresh
from ._working_copy import fresh_token


async def aget_access_token(account: ConnectedAccount, *, margin: timedelta | None = None) -> str:
    """Does the same as ``get_access_token``; a fresh token is returned without another thread."""
    if token := fresh_token(account, margin=margin):
        return token.reveal()
    return await sync_to_async(get_access_token)(account, margin=margin)


async def arefresh(account: ConnectedAccount, *, force: bool = False) -> ConnectedAccount:
    """Does the same as ``refresh``, from async code."""
    return await sync_to_async(refresh)(account, force=force)


#: Does the same as ``check``, from async code.
acheck = sync_to_async(check)

#: Does the same as ``disconnect``, from async code.
adisconnect = sync_to_async(disconnect)
