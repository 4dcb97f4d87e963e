"""Signals are sent after the commit with ``send_robust``: an error of a receiver is logged."""

from __future__ import annotations

from django.dispatch import Signal

#: ``account``, ``request``, ``created`` (bool: the first time for this person)
account_connected = Signal()

#: ``account``
account_refreshed = Signal()

#: ``account``: a refresh has worked again
account_recovered = Signal()

#: ``account``, ``error`` (an ``IlertOAuthError`` that changed nothing)
account_refresh_failed = Signal()

#: ``account`` (as it was, if it is deleted by now), ``reason`` (a ``Reason``), ``request`` or None
account_revoked = Signal()
