"""What can be done to an account: they alone write tokens and send signals."""

from .bulk import BulkResult, refresh_many
from .check import check
from .connect import finish_connect, start_connect
from .disconnect import RevocationResult, disconnect, revoke_pending
from .refresh import get_access_token, refresh

__all__ = [
    "BulkResult",
    "RevocationResult",
    "check",
    "disconnect",
    "finish_connect",
    "get_access_token",
    "refresh",
    "refresh_many",
    "revoke_pending",
    "start_connect",
]
