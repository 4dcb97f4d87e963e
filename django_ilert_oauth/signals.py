"""Signals that ``flows`` send after the commit, with ``send_robust``.

If a receiver raises, the error is logged.
"""

from __future__ import annotations

from django.dispatch import Signal

#: ``account``, ``request``, ``created`` (whether the user connects this person for the first time)
account_connected = Signal()

#: ``account``
account_refreshed = Signal()

#: ``account``; sent when a refresh works again after a failure
account_recovered = Signal()

#: ``account``, ``error`` (an ``IlertOAuthError``; the tokens are unchanged)
account_refresh_failed = Signal()

#: ``account`` (as it was, if it has been deleted), ``reason`` (a ``Reason``), ``request`` or None
account_revoked = Signal()
