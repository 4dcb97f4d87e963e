"""What can be done with accounts: connect, refresh, check, disconnect. Only flows write tokens."""

from ._async import acheck, adisconnect, aget_access_token, arefresh
from ._bulk.check import CheckResult, check_many
from ._bulk.refresh import BulkResult, refresh_many
from ._bulk.revocations import RevocationResult, revoke_pending
from ._check import check
from ._connect import finish_connect, start_connect
from ._disconnect import DisconnectResult, disconnect, disconnect_many
from ._health import Health, export, health
from ._refresh import get_access_token, refresh
from ._rotate_keys import RotationResult, rotate_keys

__all__ = [
    "BulkResult",
    "CheckResult",
    "DisconnectResult",
    "Health",
    "RevocationResult",
    "RotationResult",
    "acheck",
    "adisconnect",
    "aget_access_token",
    "arefresh",
    "check",
    "check_many",
    "disconnect",
    "disconnect_many",
    "export",
    "finish_connect",
    "get_access_token",
    "health",
    "refresh",
    "refresh_many",
    "revoke_pending",
    "rotate_keys",
    "start_connect",
]
