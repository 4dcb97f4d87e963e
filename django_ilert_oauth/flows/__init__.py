"""What can be done to an account. Flows alone write tokens and send signals."""

from .asynchronous import aget_access_token, arefresh
from .bulk import BulkResult, refresh_many
from .bulk_check import CheckResult, check_many
from .check import check
from .connect import finish_connect, start_connect
from .disconnect import RevocationResult, disconnect, revoke_pending
from .refresh import get_access_token, refresh
from .rotate import RotationResult, rotate_keys

__all__ = [
    "BulkResult",
    "CheckResult",
    "RevocationResult",
    "RotationResult",
    "aget_access_token",
    "arefresh",
    "check",
    "check_many",
    "disconnect",
    "finish_connect",
    "get_access_token",
    "refresh",
    "refresh_many",
    "revoke_pending",
    "rotate_keys",
    "start_connect",
]
